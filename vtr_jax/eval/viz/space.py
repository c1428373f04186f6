"""The space of the embeddings, flattened to two dimensions."""

import importlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from vtr_jax.core.config import choose
from vtr_jax.core.errors import DataError, VtrError
from vtr_jax.eval.viz import base, canvas
from vtr_jax.eval.viz.canvas import FAINT, INK, Target

_MARKS = "osD^vPX<>"


def pca(
  x: Float[np.ndarray, "n e"], count: int = 2
) -> tuple[Float[np.ndarray, "n c"], Float[np.ndarray, " c"]]:
  """(coordinates along the principal axes, shares of the variance of each).

  Signs are such that the entry of each axis that is greatest in size is positive.

  Raises:
    DataError: there are fewer rows or columns than axes.
  """
  x = np.asarray(x, np.float64)
  if x.ndim != 2 or min(x.shape) < count:
    raise DataError(f"embeddings: {x.shape} have no {count} axes; give more of them")
  centred = x - x.mean(axis=0)
  _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
  top = np.take_along_axis(axes, abs(axes).argmax(axis=1)[:, None], axis=1)
  points = centred @ (axes * np.where(top < 0, -1, 1))[:count].T
  return points, sizes[:count] ** 2 / max((sizes**2).sum(), 1e-30)


def umap(x: Float[np.ndarray, "n e"], seed: int = 0) -> Float[np.ndarray, "n 2"]:
  """Two dimensions that keep neighbours together, by cosine (arXiv 1802.03426).

  Raises:
    VtrError: umap-learn is not installed.
  """
  try:
    module = importlib.import_module("umap")
  except ImportError:
    raise VtrError("umap: is not installed; pip install umap-learn, or 'pca'") from None
  return module.UMAP(metric="cosine", random_state=seed).fit_transform(x)


def embedding_map(
  path: Target,
  video: Float[np.ndarray, "v e"],
  text: Float[np.ndarray, "t e"] | None = None,
  owner: Int[np.ndarray, " t"] | None = None,
  groups: Sequence[str] | None = None,
  how: str = "pca",
) -> None:
  """Clips as filled marks, captions as hollow ones, a thin line from each to its clip.

  Args:
    path: where the PNG goes.
    video: embeddings of clips.
    text: embeddings of captions, of the same width; None = clips alone.
    owner: index of each caption's clip; None = text i belongs to video i.
    groups: of each clip; each gets its own colour and mark.
    how: pca | umap.

  Raises:
    DataError: the arrays do not fit together.
    VtrError: matplotlib is missing, or umap-learn where it is asked for.
  """
  choose(how, ("pca", "umap"), "how")
  text = video[:0] if text is None else text
  owner = np.arange(len(text)) if owner is None else np.asarray(owner)
  groups = [""] * len(video) if groups is None else list(groups)
  if (
    len(groups) != len(video)
    or owner.shape != (len(text),)
    or video.shape[1:] != text.shape[1:]
    or (len(owner) and owner.max() >= len(video))
  ):
    raise DataError(
      f"embeddings: clips {video.shape}, captions {text.shape}, {len(groups)} groups "
      f"and owners {owner.shape} do not fit together"
    )
  both = np.concatenate([video, text])
  if how == "pca":
    points, share = pca(both)
    names = [
      f"axis {i + 1}: {100 * s:.0f} % of the variance" for i, s in enumerate(share)
    ]
  else:
    points, names = umap(both), ["umap 1", "umap 2"]
  clips, captions = points[: len(video)], points[len(video) :]
  made = canvas.figure(9, 6.5)
  ax = made.add_subplot()
  lines = canvas.matplotlib("collections").LineCollection
  pairs = np.stack([captions, clips[owner]], axis=1)
  ax.add_collection(lines(pairs, colors="#bbbbbb", linewidths=0.5, zorder=1))
  known = sorted(set(groups))
  for i, group in enumerate(known):
    mine = np.array([g == group for g in groups])
    style = dict(marker=_MARKS[i % len(_MARKS)], s=26, linewidths=0.9)
    color = canvas.CYCLE[i % len(canvas.CYCLE)]
    ax.scatter(*clips[mine].T, c=color, label=group or "clip", **style)
    ax.scatter(*captions[mine[owner]].T, facecolors="none", edgecolors=color, **style)
  ax.set_title("filled: clips, hollow: captions" if len(text) else "clips", color=INK)
  ax.set_xlabel(names[0], color=FAINT)
  ax.set_ylabel(names[1], color=FAINT)
  ax.set(xticks=[], yticks=[])
  ax.spines[:].set_color("#dddddd")
  if len(known) > 1:
    legend = dict(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    ax.legend(fontsize=9, **legend)
  canvas.save(made, path)


def picture(
  video: Float[np.ndarray, "v e"],
  text: Float[np.ndarray, "t e"] | None = None,
  groups: Sequence[str] | None = None,
  how: str = "pca",
) -> Image.Image:
  """`embedding_map` of clips, and of one caption for each, as an image."""
  return base.image(embedding_map, video, text, None, groups, how)
