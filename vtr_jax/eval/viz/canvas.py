"""Drawing tools: matplotlib without pyplot, and a page laid out in pixels.

Colours are the colour-blind-safe palette of Okabe and Ito.
"""

import importlib
import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vtr_jax.core.errors import DataError, VtrError

Target = str | os.PathLike[str] | io.BufferedIOBase
Video = UInt8[np.ndarray, "_ _ _ 3"]  # videos of one call may differ in size
Clips = Sequence[Video] | UInt8[np.ndarray, "b t h w 3"]

INK, FAINT, BOX = "#222222", "#6b6b6b", "#d6d6d6"
GREEN, RED = "#00785A", "#C04A00"
CYCLE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6D31")
MARGIN, GAP = 24, 6  # pixels
_DPI = 100


def matplotlib(module: str) -> Any:
  """Imports a module of matplotlib on first use.

  Raises:
    VtrError: matplotlib is not installed.
  """
  try:
    return importlib.import_module(f"matplotlib.{module}")
  except ImportError:
    raise VtrError(
      "figures: matplotlib is not installed; pip install matplotlib"
    ) from None


def figure(width: float, height: float, layout: str | None = "constrained") -> Any:
  """An empty figure, in inches; without pyplot, so there is no global state."""
  made = matplotlib("figure").Figure((width, height), _DPI, layout=layout)
  matplotlib("backends.backend_agg").FigureCanvasAgg(made)
  return made


def save(made: Any, path: Target) -> None:
  """Writes a figure as PNG."""
  made.savefig(path, format="png", facecolor="white")


def outline(ax: Any, x: float, y: float, w: float, h: float, **style: Any) -> None:
  """Draws the outline of a rectangle."""
  ax.add_patch(matplotlib("patches").Rectangle((x, y), w, h, fill=False, **style))


def style_axes(ax: Any, x: str, y: str, empty: bool = False) -> None:
  """Labels the axes in a plain style, with a legend above if there are curves."""
  ax.set_xlabel(x, color=FAINT)
  ax.set_ylabel(y, color=FAINT)
  ax.tick_params(colors=FAINT)
  ax.spines[:].set_visible(False)
  ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
  if empty:
    ax.set(xticks=[], yticks=[])
    ax.text(0.5, 0.5, "none yet", color=FAINT, ha="center", transform=ax.transAxes)
  elif ax.lines:
    ax.grid(color="#e4e4e4", linewidth=0.8)
    ax.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1.0))


def filmstrip(video: Video, max_frames: int) -> UInt8[np.ndarray, "h s 3"]:
  """At most `max_frames` frames, evenly spaced, side by side with white gaps.

  Raises:
    DataError: `video` is not uint8 [t, h, w, 3].
  """
  video = np.asarray(video)
  if (
    video.ndim != 4 or video.shape[-1] != 3 or video.dtype != np.uint8 or not video.size
  ):
    raise DataError(
      f"video: {video.dtype} {video.shape} cannot be drawn; give uint8 [t, h, w, 3]"
    )
  count = min(max_frames, len(video))
  indices = np.linspace(0, len(video) - 1, count).round().astype(int)
  gap = max(1, video.shape[2] // 32)
  pad = ((0, 0), (0, 0), (0, gap), (0, 0))
  return np.concatenate(np.pad(video[indices], pad, constant_values=255), 1)[:, :-gap]


def fit(image: np.ndarray, width: float, height: float) -> tuple[float, float]:
  """Largest (width, height) within the bounds that keeps the aspect ratio."""
  scale = min(width / image.shape[1], height / image.shape[0])
  return image.shape[1] * scale, image.shape[0] * scale


class Page:
  """A white page laid out in pixels from the top; `y` is the next free row."""

  def __init__(self, width: float):
    self.width, self.y = width, 0.0
    self.figure = figure(1, 1, layout=None)
    self.axes = self.figure.add_axes((0, 0, 1, 1))
    self.axes.axis("off")

  def write(
    self, x: float, y: float, text: str, size: float = 12, **style: Any
  ) -> None:
    """Writes text at x, vertically centred 10 pixels below row `self.y + y`."""
    style = dict(color=INK, va="center_baseline", parse_math=False) | style
    self.axes.text(x, self.y + y + 10, text, fontsize=size, **style)

  def image(self, image: np.ndarray, x: float, y: float, w: float, h: float) -> None:
    """Draws an image with its top left corner at x and row `self.y + y`."""
    extent = (x, x + w, self.y + y + h, self.y + y)
    self.axes.imshow(image, extent=extent, aspect="auto")

  def measure(self, text: str, weight: str = "normal") -> float:
    """Width of `text` at the default size, pixels."""
    font = matplotlib("font_manager").FontProperties(size=12, weight=weight)
    renderer = self.figure.canvas.get_renderer()
    return renderer.get_text_width_height_descent(text, font, ismath=False)[0]

  def wrap(
    self, widths: Sequence[float], gap: float, max_width: float
  ) -> list[list[int]]:
    """Breaks items of these widths into lines of indices."""
    lines, x = [[]], 0.0
    for i, width in enumerate(widths):
      if lines[-1] and x + width > max_width:
        lines.append([])
        x = 0.0
      lines[-1].append(i)
      x += width + gap
    return lines

  def save(self, path: Target) -> None:
    """Writes the page down to row `self.y` as PNG."""
    width, height = self.width + 2 * MARGIN, self.y + 2 * MARGIN
    self.figure.set_size_inches(width / _DPI, height / _DPI)
    self.axes.set_xlim(-MARGIN, width - MARGIN)
    self.axes.set_ylim(height - MARGIN, -MARGIN)
    save(self.figure, path)
