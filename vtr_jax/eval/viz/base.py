"""What pictures are made of: a model, rows of inputs, strips with names, heat maps."""

import base64
import functools
import io
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int, Int32, UInt8
from PIL import Image

from vtr_jax.core import sharding
from vtr_jax.core.batch import ClipSpec, TextSpec
from vtr_jax.core.errors import DataError
from vtr_jax.core.sharding import OnDevices
from vtr_jax.data.tokenizers.base import Tokenizer, encode_all
from vtr_jax.eval.viz import canvas
from vtr_jax.eval.viz.canvas import FAINT, GAP, INK, MARGIN, Clips, Page, Video
from vtr_jax.objectives.base import Objective

# Ours: lighter as it grows, so that gray prints it.
_HEAT = np.array(
  [(0, 0, 0), (120, 28, 80), (220, 80, 40), (250, 180, 40), (255, 250, 200)], "f"
)


@runtime_checkable
class InputConfig(Protocol):
  """The part of a config that fixes the shapes of a model's inputs."""

  @property
  def clip(self) -> ClipSpec: ...
  @property
  def text(self) -> TextSpec: ...


@runtime_checkable
class Model(Protocol):
  """What figures read of a model, such as `vtr_jax.inference.model.LoadedModel`."""

  @property
  def config(self) -> InputConfig: ...
  @property
  def objective(self) -> Objective: ...
  @property
  def params(self) -> Any: ...
  @property
  def tokenizer(self) -> Tokenizer: ...
  @property
  def mesh(self) -> Mesh: ...


@functools.lru_cache(16)
def _compiled(make: Callable, objective: Objective, *args: Any) -> OnDevices:
  *options, mesh = args
  return OnDevices(make(objective, *options), mesh)


def on_devices(
  model: Model, make: Callable, batch: Mapping[str, np.ndarray], *options: Any
) -> Any:
  """`make(objective, *options)`, a function of (params, batch), of all rows.

  Every process gives all rows and gets all; the function is compiled once for each
  shape. Its arrays have a row for each of the batch's.
  """
  rows, mesh = len(next(iter(batch.values()))), model.mesh
  spread = -(-rows // mesh.size) * mesh.size
  mine = sharding.host_rows(mesh).share(spread)
  # Rows beyond the last are copies of it.
  picked = np.minimum(np.arange(spread), rows - 1)[mine]
  function = _compiled(make, model.objective, *options, mesh)
  found = function(model.params, {k: v[picked] for k, v in batch.items()})
  return jax.tree.map(lambda x: x[:rows], found)


def clip_rows(model: Model, clips: Clips) -> UInt8[np.ndarray, "b t h w 3"]:
  """Clips as one array.

  Raises:
    DataError: there is none, or they have not the model's size; `Model.clip` makes it.
  """
  spec = model.config.clip
  wanted = (spec.num_frames, spec.image_size, spec.image_size, 3)
  for i, clip in enumerate(clips):
    if np.shape(clip) != wanted or np.asarray(clip).dtype != np.uint8:
      raise DataError(
        f"clip {i}: {np.asarray(clip).dtype} {np.shape(clip)}, but the model sees "
        f"uint8 {wanted}; make it by model.clip(video)"
      )
  if not len(clips):
    raise DataError("clips: there is none; give one at least")
  return np.stack(list(clips))


def text_rows(model: Model, texts: Sequence[str]) -> dict[str, np.ndarray]:
  """`text_ids` and `text_valid` of texts."""
  ids, valid = encode_all(model.tokenizer, texts, model.config.text.max_length)
  return dict(text_ids=ids, text_valid=valid)


def spelled(tokenizer: Tokenizer, ids: Int32[np.ndarray, " l"]) -> list[str]:
  """How each token reads, without what marks the ends of words."""
  clean = lambda p: p.replace("▁", "").removeprefix("##").removesuffix("</w>")
  return [clean(piece) for piece in tokenizer.pieces(ids)]


def spoken(
  tokenizer: Tokenizer, ids: Int32[np.ndarray, " l"], valid: Bool[np.ndarray, " l"]
) -> Int[np.ndarray, " w"]:
  """Places of the tokens that mean a word: neither padding nor special ones."""
  silent = {*tokenizer.special_ids} - {tokenizer.unk_id}
  return np.flatnonzero(valid & ~np.isin(ids, list(silent)))


def heat(
  frames: Video,
  values: Float[np.ndarray, "g y x"],
  low: float | None = None,
  high: float | None = None,
) -> Video:
  """A map of a clip's tubelets over its frames: the higher, the more and the lighter.

  Every square is one tubelet, nothing is smoothed; what lies at `low` or beneath shows
  the frame, in gray.

  Args:
    frames: of the clip.
    values: one for each tubelet.
    low, high: ends of the scale; None = the least and the greatest of the clip.
  """
  low = float(values.min()) if low is None else low
  high = float(values.max()) if high is None else high
  if any(n % m for n, m in zip(frames.shape[:3], values.shape, strict=True)):
    raise DataError(f"values: {values.shape} is no grid of frames {frames.shape}")
  share = np.clip((values - low) / max(high - low, 1e-12), 0, 1).astype(np.float32)
  for axis, (size, cells) in enumerate(zip(frames.shape, share.shape, strict=False)):
    share = share.repeat(size // cells, axis)
  gray = frames.astype(np.float32) @ np.array((0.299, 0.587, 0.114), np.float32)
  steps = np.linspace(0, 1, len(_HEAT))
  color = np.stack([np.interp(share, steps, c) for c in _HEAT.T], axis=-1)
  cover = 0.75 * share[..., None]
  return ((1 - cover) * gray[..., None] + cover * color + 0.5).astype(np.uint8)


def strips(
  rows: Sequence[tuple[str, Video]], title: str = "", most: int = 8, height: int = 90
) -> Image.Image:
  """Clips beneath each other, each with its name at the left.

  Args:
    rows: (name, clip); a name's lines are parted by newlines. A clip may be a single
      image, [1 h w 3].
    title: above all of them.
    most: frames of a clip that are drawn, evenly spaced.
    height: of a row, pixels.

  Raises:
    DataError: there is no row, or a clip is not uint8 [t, h, w, 3].
    VtrError: matplotlib is missing.
  """
  if not rows:
    raise DataError("strips: no row to draw; give one at least")
  drawn = [canvas.strip(video, most) for _, video in rows]
  sizes = [canvas.fit(strip, 1200, height) for strip in drawn]
  page = Page(0)
  lines = [name.split("\n") for name, _ in rows]
  label = MARGIN + max(page.measure(line) for name in lines for line in name)
  page.width = max(label + max(w for w, _ in sizes), page.measure(title, "bold"))
  if title:
    page.write(0, 0, title, weight="bold")
    page.y += MARGIN + GAP
  for name, strip, (w, h) in zip(lines, drawn, sizes, strict=True):
    for i, line in enumerate(name):
      size, color = (12, INK) if i == 0 else (10, FAINT)
      y = h / 2 - 10 + 18 * (i - (len(name) - 1) / 2)
      page.write(0, y, line, size, color=color)
    page.image(strip, label, 0, w, h)
    page.y += h + GAP
  page.y -= GAP
  return image(page.save)


def image(draw: Callable, *args: Any, **kwargs: Any) -> Image.Image:
  """The picture that `draw(path, ...)` of `figures` writes, instead of a file."""
  file = io.BytesIO()
  draw(file, *args, **kwargs)
  return Image.open(file)


class Gif:
  """Clips side by side that play for ever; notebooks show it where it is a result."""

  def __init__(self, clips: Sequence[Video], seconds: float = 0.25, zoom: int = 3):
    """Draws it.

    Args:
      clips: of the same number of frames and the same height.
      seconds: that each frame stays.
      zoom: pixels of the picture to one of a clip.

    Raises:
      DataError: there is no clip, or they do not fit together.
    """
    if not len(clips) or len({np.shape(clip)[:2] for clip in clips}) != 1:
      shapes = ", ".join(str(np.shape(clip)) for clip in clips) or "none"
      raise DataError(f"clips: {shapes}; give clips of one length and height")
    gap = np.full((*np.shape(clips[0])[:2], 4, 3), 255, np.uint8)
    beside = [part for clip in clips for part in (gap, clip)][1:]
    frames = np.concatenate(beside, axis=2).repeat(zoom, 1).repeat(zoom, 2)
    first, *rest = [Image.fromarray(frame) for frame in frames]
    file, duration = io.BytesIO(), int(1000 * seconds)
    first.save(
      file, "gif", save_all=True, append_images=rest, duration=duration, loop=0
    )
    self.data = file.getvalue()

  def save(self, path: str | os.PathLike) -> None:
    pathlib.Path(path).write_bytes(self.data)

  def _repr_html_(self) -> str:
    coded = base64.b64encode(self.data).decode()
    return f'<img src="data:image/gif;base64,{coded}">'
