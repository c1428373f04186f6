"""Sizes, masks, batches and objectives for the tests of dual encoders."""

import flax.linen as nn
import jax
import numpy as np
from weights import draw

from vtr_jax.core import batch as batch_lib
from vtr_jax.core.batch import ClipSpec, MaskSpec, TextSpec, patchify, unpatchify
from vtr_jax.data import masks
from vtr_jax.objectives import base

CLIP = ClipSpec(4, 16, (1, 8, 8), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
TEXT = TextSpec(10, 40, 3)
TUBE = MaskSpec("tube", 0.5, "replace", 0.4, False)
PER_FRAME = MaskSpec("per_frame", 0.5, "replace", 0.4, False)


def make_batch(mask, rows=6):
  """Random clips and texts with masks sampled as in the loader."""
  rng = np.random.default_rng(0)
  drawn = [masks.video_mask(mask, CLIP.grid, rng) for _ in range(rows)]
  keep, hide = (np.stack(idx) for idx in zip(*drawn, strict=True))
  fake = batch_lib.fake(CLIP, TEXT, mask, rows)
  return fake | dict(video_keep_idx=keep, video_mask_idx=hide)


def with_masked_pixels_changed(batch):
  """The batch with other pixels in the masked patches."""
  patches = np.array(patchify(batch["video"], CLIP.tubelet_size))
  np.put_along_axis(patches, batch["video_mask_idx"][:, :, None], np.uint8(7), axis=1)
  return batch | dict(video=unpatchify(patches, CLIP))


# Keys of `objective.video` that tests change like those of `objective`.
VIDEO = ("time_init", "pos_embed", "time_pos_embed_resize")


def change(values, **changes):
  """Changes keys of section `objective`; `backbone` is the name in its `video`."""
  changes = dict(changes)
  video = {key: changes.pop(key) for key in VIDEO if key in changes}
  if "backbone" in changes:
    video["name"] = changes.pop("backbone")
  video = changes.pop("video", values["video"]) | video
  return values | changes | dict(video=values["video"] | video)


def make(values, mask, depth=1):
  """(objective, random parameters, batch).

  Parameters are sampled with NumPy: compiling the initialisation would take longer.
  """
  for tower in ("video", "text"):
    values[tower]["depth"] = depth
  objective = base.build(values, CLIP, TEXT, mask)
  batch = make_batch(mask)
  boxed = jax.eval_shape(objective.init, jax.random.key(0), batch)
  return objective, draw(nn.unbox(boxed)), batch
