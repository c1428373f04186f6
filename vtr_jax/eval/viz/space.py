"""Two-dimensional projections of the embedding space."""

import importlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from vtr_jax.core.config import choose
from vtr_jax.core.errors import DataError, VtrError
from vtr_jax.eval.viz import base, canvas
from vtr_jax.eval.viz.canvas import FAINT, INK, Target

_MARKERS = "osD^vPX<>"


def pca(
  x: Float[np.ndarray, "n e"], count: int = 2
) -> tuple[Float[np.ndarray, "n c"], Float[np.ndarray, " c"]]:
  """(coordinates along the principal axes, explained variance ratio of each).

  The entry of largest magnitude of each axis is positive.

  Raises:
    DataError: there are fewer rows or columns than axes.
  """
  x = np.asarray(x, np.float64)
  if x.ndim != 2 or min(x.shape) < count:
    raise DataError(f"embeddings: {x.shape} have fewer than {count} axes; give more")
  centred = x - x.mean(axis=0)
  _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
  top = np.take_along_axis(axes, abs(axes).argmax(axis=1)[:, None], axis=1)
  points = centred @ (axes * np.where(top < 0, -1, 1))[:count].T
  return points, sizes[:count] ** 2 / max((sizes**2).sum(), 1e-30)


def umap(x: Float[np.ndarray, "n e"], seed: int = 0) -> Float[np.ndarray, "n 2"]:
  """UMAP projection to two dimensions, by cosine (arXiv 1802.03426).

  Raises:
    VtrError: umap-learn is not installed.
  """
  try:
    module = importlib.import_module("umap")
  except ImportError:
    raise VtrError(
      "umap: not installed; pip install umap-learn, or use 'pca'"
    ) from None
  return module.UMAP(metric="cosine", random_state=seed).fit_transform(x)


def embedding_map(
  path: Target,
  video: Float[np.ndarray, "v e"],
  text: Float[np.ndarray, "t e"] | None = None,
  owner: Int[np.ndarray, " t"] | None = None,
  groups: Sequence[str] | None = None,
  how: str = "pca",
) -> None:
  """Scatter plot of clips (filled), captions (hollow), and lines between pairs.

  Args:
    path: of the PNG.
    video: embeddings of clips.
    text: embeddings of captions, of the same width; None = only clips.
    owner: index of each caption's clip; None = text i belongs to video i.
    groups: group of each clip, shown by colour and marker.
    how: pca | umap.

  Raises:
    DataError: the arrays do not fit together.
    VtrError: matplotlib or, for `how="umap"`, umap-learn is missing.
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
    points, ratios = pca(both)
    names = [
      f"axis {i + 1}: {100 * s:.0f} % of the variance" for i, s in enumerate(ratios)
    ]
  else:
    points, names = umap(both), ["umap 1", "umap 2"]
  clips, captions = points[: len(video)], points[len(video) :]
  made = canvas.figure(9, 6.5)
  ax = made.add_subplot()
  lines = canvas.matplotlib("collections").LineCollection
  pairs = np.stack([captions, clips[owner]], axis=1)
  ax.add_collection(lines(pairs, colors="#bbbbbb", linewidths=0.5, zorder=1))
  unique = sorted(set(groups))
  for i, group in enumerate(unique):
    members = np.array([g == group for g in groups])
    style = dict(marker=_MARKERS[i % len(_MARKERS)], s=26, linewidths=0.9)
    color = canvas.CYCLE[i % len(canvas.CYCLE)]
    ax.scatter(*clips[members].T, c=color, label=group or "clip", **style)
    ax.scatter(
      *captions[members[owner]].T, facecolors="none", edgecolors=color, **style
    )
  ax.set_title("filled: clips, hollow: captions" if len(text) else "clips", color=INK)
  ax.set_xlabel(names[0], color=FAINT)
  ax.set_ylabel(names[1], color=FAINT)
  ax.set(xticks=[], yticks=[])
  ax.spines[:].set_color("#dddddd")
  if len(unique) > 1:
    legend = dict(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    ax.legend(fontsize=9, **legend)
  canvas.save(made, path)


def picture(
  video: Float[np.ndarray, "v e"],
  text: Float[np.ndarray, "t e"] | None = None,
  groups: Sequence[str] | None = None,
  how: str = "pca",
) -> Image.Image:
  """`embedding_map` of clips and one caption per clip, as an image."""
  return base.image(embedding_map, video, text, None, groups, how)
