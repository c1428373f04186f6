"""Pictures of what a model does: one function, one PNG.

Each function takes host arrays and writes to `path`, the name of a local file or a
binary file object (so `epath.Path(...).open("wb")` reaches a bucket). All raise
`DataError` for arrays that do not fit, and `VtrError` where matplotlib is missing.
Colours are those of Okabe and Ito, which the colour-blind can tell apart; no meaning
rests on colour alone.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import BinaryIO

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from vtr_jax.errors import DataError, VtrError

Target = str | os.PathLike[str] | BinaryIO
Video = UInt8[np.ndarray, "t h w 3"]

_DPI = 100  # canvases are laid out in pixels at this resolution
_INK, _FAINT, _BOX = "#222222", "#767676", "#d4d4d4"
_BLUE, _GREEN, _RED = "#0072B2", "#00795A", "#C04A00"
_CYCLE = (_BLUE, "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D31")


def reconstruction(
  path: Target,
  frames: Sequence[Video],
  masked: Sequence[Video],
  predicted: Sequence[Video],
  captions: Sequence[Sequence[tuple[str, bool, str | None]]],
) -> None:
  """Clips before masking, as masked, and as rebuilt; captions with hidden words.

  Args:
    path: where the PNG goes.
    frames, masked, predicted: one video per clip; in `masked`, hidden tubelets gray.
      At most 16 frames, evenly spaced, are drawn.
    captions: for each clip its words as (word, hidden, prediction). The prediction
      stands beneath a hidden word; None leaves the place empty.
  """
  clips = _zip(frames=frames, masked=masked, predicted=predicted, captions=captions)
  margin, label, gap, page = 24, 90, 6, 1240
  strips, tall = [], 2 * margin + 24
  for *videos, _ in clips:
    rows = [_strip(v, most=16) for v in videos]
    scale = min(page / rows[0].shape[1], 150 / rows[0].shape[0])
    strips.append([(r, r.shape[1] * scale, r.shape[0] * scale) for r in rows])
  lines = [_wrap(words, page) for *_, words in clips]
  for rows, text in zip(strips, lines, strict=True):
    tall += sum(h + gap for _, _, h in rows) + 56 * len(text) + margin
  fig, ax = _canvas(2 * margin + label + page, tall)
  y = margin
  for rows, text in zip(strips, lines, strict=True):
    for name, (image, w, h) in zip(("original", "masked", "rebuilt"), rows, strict=True):
      _write(ax, margin, y + h / 2, name, color=_FAINT, va="center")
      _image(ax, image, margin + label, y, w, h)
      y += h + gap
    for line in text:
      for x, word, hidden, guess in line:
        _word(ax, margin + label + x, y + 22, word, hidden, guess)
      y += 56
    y += margin
  key = "gray box: hidden word, the model's guess beneath it   ✓ right   ✗ wrong"
  _write(ax, margin + label, y, key, color=_FAINT, size=10, va="center")
  _save(fig, path)


def retrievals(
  path: Target,
  queries: Sequence[str],
  strips: Sequence[Sequence[Video]],
  scores: Sequence[Sequence[float]],
  truth: Sequence[int],
) -> None:
  """The first results of sample queries, best first; the right one is framed.

  Args:
    path: where the PNG goes.
    queries: text of each query.
    strips: for each query, the videos found, best first; usually five. Of each, at
      most four frames, evenly spaced, are drawn.
    scores: similarity of each of these videos to the query.
    truth: rank, from 1, of each query's right video; it may lie beyond those shown.
  """
  rows = _zip(queries=queries, strips=strips, scores=scores, truth=truth)
  margin, gap, cell = 24, 16, 320
  columns = max(len(videos) for _, videos, _, _ in rows)
  page = max(columns * (cell + gap) - gap, 2 * cell)
  blocks, tall = [], margin
  for query, videos, values, rank in rows:
    lines = _wrap([(word, False, None) for word in query.split()], page - 180)
    images = [_strip(v, most=4) for v in videos]
    row = max(i.shape[0] * cell / i.shape[1] for i in images) if images else 0
    blocks.append((lines, images, values, rank, row))
    tall += 26 * len(lines) + row + 52 + margin
  fig, ax = _canvas(2 * margin + page, tall)
  y = margin
  for lines, images, values, rank, row in blocks:
    note = f"right video: rank {rank}"
    _write(ax, margin + page, y + 10, note, color=_FAINT, size=11, ha="right")
    for line in lines:
      text = " ".join(word for _, word, _, _ in line)
      _write(ax, margin, y + 10, text, size=13, weight="bold")
      y += 26
    for i, (image, score) in enumerate(zip(images, values, strict=True)):
      _result(ax, image, margin + i * (cell + gap), y, cell, i + 1, score, rank)
    y += row + 52 + margin
  _save(fig, path)


def similarity(
  path: Target,
  sim: Shaped[np.ndarray, "t v"],
  title: str = "Similarity of texts and videos",
  owner: Int[np.ndarray, "t"] | None = None,
) -> None:
  """Heat map of scores; the right pairs are outlined, or their mean is told.

  Matrices of more than 600 rows or columns are drawn as block maxima, so that a thin
  diagonal stays in sight.

  Args:
    path: where the PNG goes.
    sim: score of every text (row) with every video (column).
    title: heading.
    owner: index of each text's video; None means text i belongs to video i.
  """
  sim = np.asarray(sim, np.float32)
  owner = np.arange(len(sim)) if owner is None else np.asarray(owner)
  if sim.ndim != 2 or not sim.size or owner.shape != sim.shape[:1]:
    raise DataError(
      f"sim: shape {sim.shape} and owner {owner.shape} do not fit; give [texts, videos] "
      "and one video for each text"
    )
  right = np.arange(sim.shape[1]) == owner[:, None]
  block = -(-max(sim.shape) // 600)
  figure = _matplotlib()
  fig = figure.Figure(figsize=(7.4, 6.4), dpi=_DPI, layout="constrained")
  ax = fig.add_subplot()
  shown = ax.imshow(_block_max(sim, block), cmap="viridis", aspect="auto")
  shown.set_extent((-0.5, sim.shape[1] - 0.5, len(sim) - 0.5, -0.5))
  if max(sim.shape) <= 40:
    for i, j in np.argwhere(right):
      ax.add_patch(_box(j - 0.5, i - 0.5, 1, 1, color="white", width=1.6))
  notes = [f"{name} {sim[at].mean():.3f}" for name, at in _groups(right)]
  ax.set_title(f"{title}\n", loc="left", color=_INK, fontsize=13)
  fig.text(0, 0, "")
  ax.text(0, 1.02, "mean of " + ", ".join(notes), transform=ax.transAxes, color=_FAINT)
  _tidy(ax, "video", "text")
  bar = fig.colorbar(shown, ax=ax, label="score" + f", maximum of {block} x {block}" * (block > 1))
  bar.outline.set_visible(False)
  _save(fig, path)
