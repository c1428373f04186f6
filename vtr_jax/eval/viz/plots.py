"""Figures from arrays: each function writes one PNG.

`path` is the name of a local file or a binary file object. All functions raise
`DataError` for arrays that do not fit together, and `VtrError` if matplotlib is
missing. Colour is never the only cue.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from vtr_jax.core.errors import DataError
from vtr_jax.eval.viz import canvas
from vtr_jax.eval.viz.canvas import (
  FAINT,
  GAP,
  GREEN,
  INK,
  MARGIN,
  Clips,
  Page,
  Target,
  Video,
)

Word = tuple[str, bool, str | None]  # token, whether it is masked, prediction


def reconstruction(
  path: Target,
  frames: Clips,
  masked: Clips,
  predicted: Clips,
  captions: Sequence[Sequence[Word]],
) -> None:
  """Original, masked and reconstructed clips, with captions and predicted tokens.

  Args:
    path: of the PNG.
    frames, masked, predicted: one video per clip, masked tubelets of `masked` in gray.
      At most 16 evenly spaced frames are drawn.
    captions: each clip's tokens as (token, masked, prediction). The prediction is
      written below a masked token, unless it is None.
  """
  clips = _rows(frames=frames, masked=masked, predicted=predicted, captions=captions)
  drawn = [[canvas.filmstrip(v, 16) for v in videos] for *videos, _ in clips]
  sizes = [[canvas.fit(strip, 1200, 150) for strip in strips] for strips in drawn]
  label, width = 130, max(600, *(w for clip in sizes for w, _ in clip))
  page = Page(label + width)
  for strips, bounds, (*_, words) in zip(drawn, sizes, clips, strict=True):
    names = ("original", "masked", "reconstructed")
    for name, strip, (w, h) in zip(names, strips, bounds, strict=True):
      page.write(0, h / 2 - 10, name, color=FAINT)
      page.image(strip, label, 0, w, h)
      page.y += h + GAP
    _caption(page, label, width, words)
    page.y += MARGIN
  key = "gray box: masked token; below it the prediction,  ✓ correct  ✗ wrong"
  page.write(label, 0, key, color=FAINT, size=10)
  page.y += MARGIN
  page.save(path)


def retrievals(
  path: Target,
  queries: Sequence[str],
  videos: Sequence[Sequence[Video]],
  scores: Sequence[Sequence[float]],
  truth: Sequence[int],
) -> None:
  """Top results of sample queries, best first; the correct video is framed.

  Args:
    path: of the PNG.
    queries: text of each query.
    videos: results of each query, best first, usually five. At most four evenly spaced
      frames of each are drawn.
    scores: similarity of each result to the query.
    truth: rank of each query's correct video, from 1; may be beyond those shown.
  """
  rows = _rows(queries=queries, videos=videos, scores=scores, truth=truth)
  cell, note = 330, 180
  page = Page(max(2, *(len(row[1]) for row in rows)) * (cell + MARGIN) - MARGIN)
  for query, results, values, rank in rows:
    page.write(page.width, 0, f"correct video: rank {rank}", color=FAINT, ha="right")
    words = query.split()
    widths = [page.measure(word, "bold") for word in words]
    for line in page.wrap(widths, page.measure("n", "bold"), page.width - note):
      page.write(0, 0, " ".join(words[i] for i in line), weight="bold")
      page.y += 24
    bottom = 0.0
    for i, (video, score) in enumerate(_rows(videos=results, scores=values)):
      strip = canvas.filmstrip(video, 4)
      x, (w, h) = i * (cell + MARGIN), canvas.fit(strip, cell, 240)
      page.image(strip, x, GAP, w, h)
      text = f"{i + 1}.   {score:.3f}"
      if i + 1 == rank:
        canvas.outline(page.axes, x, page.y + GAP, w, h, color=GREEN, linewidth=5)
        page.write(x, h + 14, f"{text}   ✓ correct", color=GREEN, weight="bold")
      else:
        page.write(x, h + 14, text, color=FAINT)
      bottom = max(bottom, h)
    page.y += bottom + 40 + MARGIN
  page.y -= MARGIN
  page.save(path)


def similarity(
  path: Target,
  sim: Shaped[np.ndarray, "t v"],
  title: str = "Similarity of texts and videos",
  owner: Int[np.ndarray, " t"] | None = None,
) -> None:
  """Heat map of scores; up to 40 rows and columns, correct pairs are outlined.

  Beyond 500 rows or columns, each cell is the maximum of a block, so that a thin
  diagonal remains visible.

  Args:
    path: of the PNG.
    sim: score of every text (row) with every video (column).
    title: heading.
    owner: index of each text's video; None = text i belongs to video i.
  """
  sim = np.asarray(sim, np.float32)
  owner = np.arange(len(sim)) if owner is None else np.asarray(owner)
  if sim.ndim != 2 or not sim.size or owner.shape != sim.shape[:1]:
    raise DataError(
      f"sim: shape {sim.shape} does not fit owner {owner.shape}; give [texts, videos], "
      "at least one of each, and the video of each text"
    )
  made = canvas.figure(7.6, 6.6)
  ax = made.add_subplot()
  block = -(-max(sim.shape) // 500)
  extent = (-0.5, sim.shape[1] - 0.5, len(sim) - 0.5, -0.5)
  aspect = "equal" if 0.5 < sim.shape[0] / sim.shape[1] < 2 else "auto"
  shown = ax.imshow(_block_max(sim, block), "viridis", extent=extent, aspect=aspect)
  correct = owner[:, None] == np.arange(sim.shape[1])
  if max(sim.shape) <= 40:
    for i, j in np.argwhere(correct):
      canvas.outline(ax, j - 0.5, i - 0.5, 1, 1, color="white", linewidth=1.5)
  groups = {"correct": sim[correct], "wrong": sim[~correct]}
  # Adding 0 turns -0.0 into 0.0.
  means = [
    f"{k} pairs {np.mean(x).round(3) + 0:.3f}" for k, x in groups.items() if x.size
  ]
  ax.set_title(f"{title}\n", loc="left", color=INK)
  ax.text(0, 1.02, "mean of " + ", ".join(means), color=FAINT, transform=ax.transAxes)
  canvas.style_axes(ax, "video", "text")
  unit = f"score (highest of {block} × {block} pairs)" if block > 1 else "score"
  made.colorbar(shown, ax=ax, label=unit).outline.set_visible(False)
  canvas.save(made, path)


def confusion(
  path: Target, counts: Float[np.ndarray, "c c"], names: Sequence[str], title: str
) -> None:
  """Confusion matrix in percent of each class.

  Args:
    path: of the PNG.
    counts: clips of class i (row) predicted as class j (column).
    names: of the classes; not drawn if there are more than 60.
    title: heading.
  """
  counts = np.asarray(counts, np.float64)
  if counts.shape != (len(names), len(names)) or not names:
    raise DataError(f"counts: shape {counts.shape} does not fit {len(names)} names")
  clips, few = counts.sum(axis=1), len(names) <= 60
  percent = 100 * counts / np.maximum(clips, 1e-9)[:, None]
  side = 3 + 0.36 * len(names) if few else 12
  made = canvas.figure(side + 1, side)
  ax = made.add_subplot()
  shown = ax.imshow(percent, "Blues", vmin=0, vmax=100)
  ax.set_title(f"{title}\n", loc="left", color=INK)
  canvas.style_axes(ax, "predicted", "class")
  if few:
    rows = [f"{name} ({n:.0f})" for name, n in zip(names, clips, strict=True)]
    ticks = dict(ticks=range(len(names)), parse_math=False)
    ax.set_xticks(labels=names, rotation=90, **ticks)
    ax.set_yticks(labels=rows, **ticks)
    for i, j in np.argwhere(percent >= 0.5):
      color = "white" if percent[i, j] > 60 else INK
      style = dict(ha="center", va="center", color=color, fontsize=8)
      ax.text(j, i, f"{percent[i, j]:.0f}", **style)
  bar = made.colorbar(shown, ax=ax, label="percent of the class", aspect=40)
  bar.outline.set_visible(False)
  canvas.save(made, path)


def curves(path: Target, records: Iterable[Mapping[str, Any]]) -> None:
  """Training losses, and R@K of all evaluations, over steps.

  Args:
    path: of the PNG.
    records: lines of a metrics.jsonl: "step" and any of "loss/<name>", "t2v/R@1",
      "<split>/v2t/R@10" and so on. If a step was logged twice, as after a restart, the
      later value counts. Values that are not finite are gaps.

  Raises:
    DataError: there is neither a loss nor an R@K.
  """
  losses, recalls = _series(records)
  if not losses and not recalls:
    raise DataError("records: no loss and no R@K; is this the metrics.jsonl of a run?")
  made = canvas.figure(12, 4.8)
  left, right = made.subplots(1, 2)
  for i, name in enumerate(sorted(losses, key=lambda name: (name != "total", name))):
    color, width = _cycle(canvas.CYCLE, i - 1), 1.4
    if name == "total":
      color, width = INK, 2.2
    _line(left, losses[name], name, color=color, linewidth=width, marker="o")
  ks = sorted({k for k, _ in recalls})
  groups = sorted({group for _, group in recalls})
  for k, group in sorted(recalls):
    at = groups.index(group)
    style = dict(
      linestyle=_cycle(("-", "--", ":", "-."), at), marker=_cycle("os^D", at)
    )
    style["color"] = _cycle(canvas.CYCLE, ks.index(k))
    _line(right, recalls[k, group], f"{group} R@{k}", **style)
  canvas.style_axes(left, "step", "training loss", empty=not losses)
  canvas.style_axes(right, "step", "recall, percent", empty=not recalls)
  right.set_ylim(-2, 102)
  canvas.save(made, path)


def _caption(page: Page, x: float, width: float, words: Sequence[Word]) -> None:
  """Wrapped lines of tokens; masked ones are boxed, with predictions below."""
  box = dict(boxstyle="round,pad=0.25", facecolor=canvas.BOX, edgecolor="none")
  widths = [
    max(
      page.measure(word), page.measure(f"✓ {predicted}") if masked and predicted else 0
    )
    for word, masked, predicted in words
  ]
  for line in page.wrap(widths, 13, width):
    at = x
    for i in line:
      word, masked, predicted = words[i]
      page.write(at, 8, word, bbox=box if masked else None)
      if masked and predicted == word:
        page.write(at, 32, f"✓ {predicted}", color=GREEN, weight="bold", size=11)
      elif masked and predicted is not None:
        page.write(at, 32, f"✗ {predicted}", color=canvas.RED, style="italic", size=11)
      at += widths[i] + 13
    page.y += 58


def _series(
  records: Iterable[Mapping[str, Any]],
) -> tuple[dict[str, dict[int, float]], dict[tuple[int, str], dict[int, float]]]:
  """Values by step: losses by name, recalls by (K, split and direction)."""
  losses, recalls = {}, {}
  for record in records:
    for key, value in record.items():
      if key.startswith("loss/"):
        points = losses.setdefault(key.removeprefix("loss/"), {})
      elif match := re.fullmatch(r"((?:.+/)?(?:t2v|v2t))/R@(\d+)", key):
        points = recalls.setdefault((int(match[2]), match[1]), {})
      else:
        continue
      points[int(record["step"])] = np.nan if value is None else float(value)
  return losses, recalls


def _line(ax: Any, points: Mapping[int, float], label: str, **style: Any) -> None:
  """Plots one curve; a long one faintly, with its moving average on top."""
  steps = np.array(sorted(points))
  values = np.array([points[step] for step in steps])
  finite = np.isfinite(values)
  values[~finite] = np.nan
  if not finite.any():
    label += " (never finite)"
  window = len(steps) // 25
  if window > 4:
    ax.plot(steps, values, color=style["color"], alpha=0.2, linewidth=0.8)
    ones = np.ones(window)
    count = np.convolve(finite, ones, "same")
    mean = np.convolve(np.where(finite, values, 0), ones, "same") / np.maximum(count, 1)
    values = np.where(finite, mean, np.nan)
  if len(steps) > 40:
    style["marker"] = ""
  ax.plot(steps, values, label=label, markersize=4.5, **style)


def _cycle(items: Sequence[str], i: int) -> str:
  return items[i % len(items)]


def _block_max(sim: np.ndarray, block: int) -> np.ndarray:
  """Maximum of each block x block tile; tiles at the edges may be smaller."""
  for axis in (0, 1):
    sim = np.maximum.reduceat(sim, np.arange(0, sim.shape[axis], block), axis=axis)
  return sim


def _rows(**columns: Sequence[Any] | np.ndarray) -> list[tuple[Any, ...]]:
  """Zips columns, which must have equal, non-zero lengths."""
  lengths = {name: len(column) for name, column in columns.items()}
  if len(set(lengths.values())) != 1 or not min(lengths.values()):
    counts = ", ".join(f"{n} of {name}" for name, n in lengths.items())
    raise DataError(f"figure: got {counts}; give equally many, at least one")
  return list(zip(*columns.values(), strict=True))
