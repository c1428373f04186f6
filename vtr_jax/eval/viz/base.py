"""Shared by the figures: models and their inputs, heat maps, grids of frames, GIFs."""

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

# Colour scale; ours: lightness increases, so it survives printing in gray.
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
  """Applies `make(objective, *options)`, a function of (params, batch), to all rows.

  Every process passes and gets all rows. The function is compiled once per shape; its
  arrays have one row per row of the batch.
  """
  rows, mesh = len(next(iter(batch.values()))), model.mesh
  padded = -(-rows // mesh.size) * mesh.size
  local = sharding.host_rows(mesh).local_slice(padded)
  # Padding repeats the last row.
  indices = np.minimum(np.arange(padded), rows - 1)[local]
  function = _compiled(make, model.objective, *options, mesh)
  result = function(model.params, {k: v[indices] for k, v in batch.items()})
  return jax.tree.map(lambda x: x[:rows], result)


def clip_rows(model: Model, clips: Clips) -> UInt8[np.ndarray, "b t h w 3"]:
  """Clips as one array.

  Raises:
    DataError: there are none, or one has another size; `Model.clip` fits a video.
  """
  spec = model.config.clip
  expected = (spec.num_frames, spec.image_size, spec.image_size, 3)
  for i, clip in enumerate(clips):
    if np.shape(clip) != expected or np.asarray(clip).dtype != np.uint8:
      raise DataError(
        f"clip {i}: {np.asarray(clip).dtype} {np.shape(clip)}, but the model "
        f"takes uint8 {expected}; use model.clip(video)"
      )
  if not len(clips):
    raise DataError("clips: none; give at least one")
  return np.stack(list(clips))


def text_rows(model: Model, texts: Sequence[str]) -> dict[str, np.ndarray]:
  """`text_ids` and `text_valid` of texts."""
  ids, valid = encode_all(model.tokenizer, texts, model.config.text.max_length)
  return dict(text_ids=ids, text_valid=valid)


def token_strings(tokenizer: Tokenizer, ids: Int32[np.ndarray, " l"]) -> list[str]:
  """Each token as text, without word-boundary markers."""
  clean = lambda p: p.replace("▁", "").removeprefix("##").removesuffix("</w>")
  return [clean(piece) for piece in tokenizer.pieces(ids)]


def word_positions(
  tokenizer: Tokenizer, ids: Int32[np.ndarray, " l"], valid: Bool[np.ndarray, " l"]
) -> Int[np.ndarray, " w"]:
  """Positions of word tokens: neither padding nor special tokens."""
  special = {*tokenizer.special_ids} - {tokenizer.unk_id}
  return np.flatnonzero(valid & ~np.isin(ids, list(special)))


def heatmap(
  frames: Video,
  values: Float[np.ndarray, "g y x"],
  low: float | None = None,
  high: float | None = None,
) -> Video:
  """Overlays one value per tubelet on a clip's gray frames.

  Higher values are lighter and more opaque; at `low` or below, only the frame shows.
  Values are not interpolated: every square is one tubelet.

  Args:
    frames: of the clip.
    values: one per tubelet.
    low, high: range of the colour scale; None = the minimum and maximum of `values`.
  """
  low = float(values.min()) if low is None else low
  high = float(values.max()) if high is None else high
  if any(n % m for n, m in zip(frames.shape[:3], values.shape, strict=True)):
    raise DataError(f"values: {values.shape} does not divide frames {frames.shape}")
  level = np.clip((values - low) / max(high - low, 1e-12), 0, 1).astype(np.float32)
  for axis, (size, cells) in enumerate(zip(frames.shape, level.shape, strict=False)):
    level = level.repeat(size // cells, axis)
  gray = frames.astype(np.float32) @ np.array((0.299, 0.587, 0.114), np.float32)
  steps = np.linspace(0, 1, len(_HEAT))
  color = np.stack([np.interp(level, steps, c) for c in _HEAT.T], axis=-1)
  cover = 0.75 * level[..., None]
  return ((1 - cover) * gray[..., None] + cover * color + 0.5).astype(np.uint8)


def frame_grid(
  rows: Sequence[tuple[str, Video]],
  title: str = "",
  max_frames: int = 8,
  height: int = 90,
) -> Image.Image:
  """Frames of clips, one clip per row with its label at the left.

  Args:
    rows: (label, clip); labels may have several lines. An image is a clip of one frame.
    title: above the rows.
    max_frames: frames drawn per clip, evenly spaced.
    height: of a row, pixels.

  Raises:
    DataError: there is no row, or a clip is not uint8 [t, h, w, 3].
    VtrError: matplotlib is missing.
  """
  if not rows:
    raise DataError("frame_grid: no rows; give at least one")
  drawn = [canvas.filmstrip(video, max_frames) for _, video in rows]
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
  """The image that `draw(path, ...)`, a function of plots.py, would write."""
  file = io.BytesIO()
  draw(file, *args, **kwargs)
  return Image.open(file)


class Gif:
  """Clips side by side as a looping GIF, which notebooks display."""

  def __init__(self, clips: Sequence[Video], seconds: float = 0.25, zoom: int = 3):
    """Renders the GIF.

    Args:
      clips: of equal length and height.
      seconds: per frame.
      zoom: pixels of the GIF per pixel of a clip.

    Raises:
      DataError: there are no clips, or their length or height differs.
    """
    if not len(clips) or len({np.shape(clip)[:2] for clip in clips}) != 1:
      shapes = ", ".join(str(np.shape(clip)) for clip in clips) or "none"
      raise DataError(f"clips: {shapes}; give clips of equal length and height")
    gap = np.full((*np.shape(clips[0])[:2], 4, 3), 255, np.uint8)
    columns = [x for clip in clips for x in (gap, clip)][1:]
    frames = np.concatenate(columns, axis=2).repeat(zoom, 1).repeat(zoom, 2)
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
