"""Pictures of what a model does: one function, one PNG.

Each function takes host arrays and writes to `path`, the name of a local file or a
binary file object. All raise `DataError` for arrays that do not fit together, and
`VtrError` where matplotlib is missing. No meaning rests on colour alone.
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

Word = tuple[str, bool, str | None]  # word, whether it was hidden, prediction


def reconstruction(
  path: Target,
  frames: Clips,
  masked: Clips,
  predicted: Clips,
  captions: Sequence[Sequence[Word]],
) -> None:
  """Clips, their masked and reconstructed forms, above captions with masked words.

  Args:
    path: where the PNG goes.
    frames, masked, predicted: one video per clip; in `masked`, hidden tubelets are
      gray. At most 16 frames, evenly spaced, are drawn.
    captions: each clip's words as (word, hidden, prediction). The prediction stands
      beneath a hidden word; None leaves its place empty.
  """
  clips = _rows(frames=frames, masked=masked, predicted=predicted, captions=captions)
  drawn = [[canvas.strip(v, most=16) for v in videos] for *videos, _ in clips]
  sizes = [[canvas.fit(strip, 1200, 150) for strip in strips] for strips in drawn]
  label, width = 80, max(600, *(w for clip in sizes for w, _ in clip))
  page = Page(label + width)
  for strips, bounds, (*_, words) in zip(drawn, sizes, clips, strict=True):
    names = ("original", "masked", "reconstructed")
    for name, strip, (w, h) in zip(names, strips, bounds, strict=True):
      page.write(0, h / 2 - 10, name, color=FAINT)
      page.image(strip, label, 0, w, h)
      page.y += h + GAP
    _caption(page, label, width, words)
    page.y += MARGIN
  key = "gray box: hidden word; beneath it the prediction,  ✓ right  ✗ wrong"
  page.write(label, 0, key, color=FAINT, size=10)
  page.y += MARGIN
  page.save(path)


def retrievals(
  path: Target,
  queries: Sequence[str],
  strips: Sequence[Sequence[Video]],
  scores: Sequence[Sequence[float]],
  truth: Sequence[int],
) -> None:
  """The first results of sample queries, best first, the right one framed.

  Args:
    path: where the PNG goes.
    queries: text of each query.
    strips: the videos found for each query, best first; usually five. At most four
      frames of each, evenly spaced, are drawn.
    scores: similarity of each of these videos to the query.
    truth: rank, from 1, of each query's right video; it may lie beyond those shown.
  """
  rows = _rows(queries=queries, strips=strips, scores=scores, truth=truth)
  cell, note = 330, 180
  page = Page(max(2, *(len(row[1]) for row in rows)) * (cell + MARGIN) - MARGIN)
  for query, videos, values, rank in rows:
    page.write(page.width, 0, f"right video: rank {rank}", color=FAINT, ha="right")
    words = query.split()
    widths = [page.measure(word, "bold") for word in words]
    for line in page.wrap(widths, page.measure("n", "bold"), page.width - note):
      page.write(0, 0, " ".join(words[i] for i in line), weight="bold")
      page.y += 24
    bottom = 0.0
    for i, (video, score) in enumerate(_rows(strips=videos, scores=values)):
      strip = canvas.strip(video, most=4)
      x, (w, h) = i * (cell + MARGIN), canvas.fit(strip, cell, 240)
      page.image(strip, x, GAP, w, h)
      text = f"{i + 1}.   {score:.3f}"
      if i + 1 == rank:
        canvas.outline(page.axes, x, page.y + GAP, w, h, color=GREEN, linewidth=5)
        page.write(x, h + 14, f"{text}   ✓ right", color=GREEN, weight="bold")
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
  """Heat map of scores; up to 40 rows and columns, right pairs are outlined.

  Beyond 500 rows or columns, each cell drawn is the highest score of a block, so
  that a diagonal too thin for the picture stays in sight.

  Args:
    path: where the PNG goes.
    sim: score of every text (row) with every video (column).
    title: heading.
    owner: index of each text's video; None means that text i belongs to video i.
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
  right = owner[:, None] == np.arange(sim.shape[1])
  if max(sim.shape) <= 40:
    for i, j in np.argwhere(right):
      canvas.outline(ax, j - 0.5, i - 0.5, 1, 1, color="white", linewidth=1.5)
  groups = {"right": sim[right], "wrong": sim[~right]}
  # Adding 0 turns -0.0 into 0.0.
  means = [
    f"{k} pairs {np.mean(x).round(3) + 0:.3f}" for k, x in groups.items() if x.size
  ]
  ax.set_title(f"{title}\n", loc="left", color=INK)
  ax.text(0, 1.02, "mean of " + ", ".join(means), color=FAINT, transform=ax.transAxes)
  canvas.dress(ax, "video", "text")
  unit = f"score (highest of {block} × {block} pairs)" if block > 1 else "score"
  made.colorbar(shown, ax=ax, label=unit).outline.set_visible(False)
  canvas.save(made, path)


def confusion(
  path: Target, counts: Float[np.ndarray, "c c"], names: Sequence[str], title: str
) -> None:
  """What the clips of each class are taken for, in percent of the class.

  Args:
    path: where the PNG goes.
    counts: clips of class i (row) that were taken for class j (column).
    names: of the classes; beyond 60 they stay out of the picture.
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
  canvas.dress(ax, "taken for", "class")
  if few:
    rows = [f"{name} ({n:.0f})" for name, n in zip(names, clips, strict=True)]
    ticks = dict(ticks=range(len(names)), parse_math=False)
    ax.set_xticks(labels=names, rotation=90, **ticks)
    ax.set_yticks(labels=rows, **ticks)
    for i, j in np.argwhere(percent >= 0.5):
      color = "white" if percent[i, j] > 60 else INK
      style = dict(ha="center", va="center", color=color, fontsize=8)
      ax.text(j, i, f"{percent[i, j]:.0f}", **style)
  bar = made.colorbar(shown, ax=ax, label="percent of the class's clips", aspect=40)
  bar.outline.set_visible(False)
  canvas.save(made, path)


def curves(path: Target, records: Iterable[Mapping[str, Any]]) -> None:
  """Training losses, and R@K of all evaluations, over steps.

  Args:
    path: where the PNG goes.
    records: the lines of a metrics.jsonl: "step" with any of "loss/<name>" and
      "t2v/R@1", "<split>/v2t/R@10" and the like. Where a step was logged twice, as
      after a restart, the later value counts. Values that are not finite leave gaps.

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
  canvas.dress(left, "step", "training loss", empty=not losses)
  canvas.dress(right, "step", "recall, percent", empty=not recalls)
  right.set_ylim(-2, 102)
  canvas.save(made, path)


def _caption(page: Page, x: float, width: float, words: Sequence[Word]) -> None:
  """Lines of words, hidden ones boxed, with the predictions beneath them."""
  box = dict(boxstyle="round,pad=0.25", facecolor=canvas.BOX, edgecolor="none")
  widths = [
    max(page.measure(word), page.measure(f"✓ {guess}") if hidden and guess else 0)
    for word, hidden, guess in words
  ]
  for line in page.wrap(widths, 13, width):
    at = x
    for i in line:
      word, hidden, guess = words[i]
      page.write(at, 8, word, bbox=box if hidden else None)
      if hidden and guess == word:
        page.write(at, 32, f"✓ {guess}", color=GREEN, weight="bold", size=11)
      elif hidden and guess is not None:
        page.write(at, 32, f"✗ {guess}", color=canvas.RED, style="italic", size=11)
      at += widths[i] + 13
    page.y += 58


def _series(
  records: Iterable[Mapping[str, Any]],
) -> tuple[dict[str, dict[int, float]], dict[tuple[int, str], dict[int, float]]]:
  """Values over steps: losses by name, recalls by (K, split and direction)."""
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
  """One curve over its steps; a long noisy one faint, beneath its moving average."""
  steps = np.array(sorted(points))
  values = np.array([points[step] for step in steps])
  good = np.isfinite(values)
  values[~good] = np.nan
  if not good.any():
    label += " (never finite)"
  window = len(steps) // 25
  if window > 4:
    ax.plot(steps, values, color=style["color"], alpha=0.2, linewidth=0.8)
    ones = np.ones(window)
    count = np.convolve(good, ones, "same")
    mean = np.convolve(np.where(good, values, 0), ones, "same") / np.maximum(count, 1)
    values = np.where(good, mean, np.nan)
  if len(steps) > 40:
    style["marker"] = ""
  ax.plot(steps, values, label=label, markersize=4.5, **style)


def _cycle(items: Sequence[str], i: int) -> str:
  return items[i % len(items)]


def _block_max(sim: np.ndarray, block: int) -> np.ndarray:
  """Highest value of each block x block piece; pieces at the edges may be smaller."""
  for axis in (0, 1):
    sim = np.maximum.reduceat(sim, np.arange(0, sim.shape[axis], block), axis=axis)
  return sim


def _rows(**columns: Sequence[Any] | np.ndarray) -> list[tuple[Any, ...]]:
  """Rows of columns that must be equally long, and not empty."""
  lengths = {name: len(column) for name, column in columns.items()}
  if len(set(lengths.values())) != 1 or not min(lengths.values()):
    told = ", ".join(f"{n} of {name}" for name, n in lengths.items())
    raise DataError(f"figure: got {told}; give equally many, at least one")
  return list(zip(*columns.values(), strict=True))
