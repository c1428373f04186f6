"""VideoPrism's backbone: masks, layers, attention maps; tests/objectives/test_golden.py
compares it with the reference code.
"""

import jax
import numpy as np
import pytest
from dual_cases import PER_FRAME, TUBE, make, with_masked_pixels_changed
from viz_cases import random_clips, small_model

from configs import mac
from vtr_jax.core.errors import ConfigError
from vtr_jax.eval.viz import attention
from vtr_jax.models import layers

VIDEO = dict(
  name="videoprism",
  width=32,
  depth=2,
  mlp_dim=48,
  num_heads=2,
  temporal_depth=1,
  auxiliary_depth=1,
  pos_grid=(3, 2, 2),
)


def values(**changes):
  c = mac.get_config("smoke").objective.to_dict()
  c |= dict(arch="videoprism", projection=32, pool="cls", video=dict(VIDEO))
  return c | changes


def small(mask=TUBE, **changes):
  """(objective, random parameters, batch) of `values`, two blocks per tower."""
  return make(values(**changes), mask, depth=2)


@pytest.mark.parametrize("masked_tokens", ["drop", "mask_token"])
def test_masked_tubelets_do_not_affect_training_embeddings(masked_tokens):
  objective, params, batch = small(masked_tokens=masked_tokens)
  assert not objective.mask.visible_only

  @jax.jit
  def run(batch):
    out = objective.forward(params, None, batch, jax.random.key(0))
    return out.pairs["vtc"].a

  other = with_masked_pixels_changed(batch)
  np.testing.assert_allclose(run(other), run(batch), atol=1e-6)
  embed = jax.jit(lambda b: objective.predict["embed_video"](params, b))
  assert abs(embed(other) - embed(batch)).max() > 1e-3  # inference masks nothing


def test_dropping_tubelets_removes_whole_places():
  """Without attention within frames, a visible patch does not notice the others."""
  video = VIDEO | dict(auxiliary_depth=0)
  objective, params, batch = small(video=video, pool="mean")
  for i in range(2):
    out = params["video_tower"]["spatial"][f"block_{i}"]["attention"]["out"]
    out["kernel"] *= 0
  keep = batch["video_keep_idx"]

  @jax.jit
  def run(params):
    call = lambda m: (m.video_tower(batch["video"]), m.masked_tokens(batch))
    full, kept = objective.model.apply({"params": params}, method=call)
    return full.patches, kept.patches

  full, kept = run(params)
  want = np.take_along_axis(np.asarray(full), keep[:, :, None], axis=1)
  np.testing.assert_allclose(kept, want, atol=1e-5)


def test_drop_path_grows_over_all_stacks(monkeypatch):
  found, run = [], layers.run_blocks
  objective, params, batch = small()

  def record(*args):
    found.extend(args[-1])
    return run(*args)

  monkeypatch.setattr(layers, "run_blocks", record)
  call = lambda m: m.video_tower(batch["video"], drop_path=0.3)
  key = jax.random.key(0)
  objective.model.apply({"params": params}, method=call, rngs=dict(dropout=key))
  np.testing.assert_allclose(found, [0, 0.1, 0.2, 0.3], atol=1e-7)


def test_unsupported_options_are_rejected():
  with pytest.raises(ConfigError, match="backbone 'videoprism' needs the same ones"):
    small(PER_FRAME)
  compute = values()["compute"] | dict(attention="cudnn", dtype="bfloat16")
  with pytest.raises(ConfigError, match="'cudnn' has no logit cap"):
    small(compute=compute)
  with pytest.raises(ConfigError, match=r"objective\.video\.pos_embed: unknown key"):
    small(video=VIDEO | dict(pos_embed="flat"))
  with pytest.raises(ConfigError, match="no class token with backbone 'videoprism'"):
    small(arch="frozen", text_norm="post")


@pytest.mark.parametrize("scan", [False, True])
def test_layers_are_counted_through_all_stacks(scan):
  compute = values()["compute"] | dict(scan=scan)
  objective, _, _ = small(compute=compute)
  above = objective.model.layers_above
  block = lambda i: "blocks" if scan else f"block_{i}"
  tower = "video_tower/"
  # Four blocks: two in space, one in time, one joint.
  assert above(tower + "proj/kernel") == above(tower + "spatial_positions") == 5
  spatial = [above(f"{tower}spatial/{block(i)}/mlp/up/kernel") for i in range(2)]
  assert spatial == ([range(4, 2, -1)] * 2 if scan else [4, 3])
  assert above(tower + "spatial/norm/scale") == above(tower + "temporal_positions") == 3
  temporal = above(f"{tower}temporal/{block(0)}/mlp/up/kernel")
  auxiliary = above(f"{tower}auxiliary/{block(0)}/mlp/up/kernel")
  assert [temporal, auxiliary] == (
    [range(2, 1, -1), range(1, 0, -1)] if scan else [2, 1]
  )
  assert above(tower + "temporal/norm/scale") == 2
  assert above("video_pool/probe") == 0
  assert above("text_tower/cls_token") == 3


def test_attention_maps_of_all_stacks_and_the_pooler():
  changes = values()
  changes.pop("name")
  model = small_model(mac, **changes)
  clips = random_clips()
  maps = attention.attention(model, clips)
  grid = model.config.clip.grid
  layers = dict(frame=2, time=1, joint=1, probe=1)
  assert {kind: x.tubelets.shape for kind, x in maps.items()} == {
    kind: (3, count, 2, *grid) for kind, count in layers.items()
  }
  for weights in maps.values():
    sums = weights.tubelets.sum(axis=(3, 4, 5)) + weights.cls
    np.testing.assert_allclose(sums, 1, atol=1e-5)
  # Along time, each place attends to itself alone: all places weigh the same.
  places = maps["time"].tubelets.sum(axis=3)
  np.testing.assert_allclose(places, 1 / (grid[1] * grid[2]), atol=1e-5)
