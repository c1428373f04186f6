"""What is found: the first clips of queries, and the neighbours of a clip."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from vtr_jax.eval import metrics
from vtr_jax.eval.viz import base, plots
from vtr_jax.eval.viz.canvas import Target, Video


def gallery(
  path: Target,
  texts: Sequence[str],
  sim: Float[np.ndarray, "t v"],
  owner: Int[np.ndarray, " t"],
  clip: Callable[[int], Video],
  queries: Sequence[int] | Int[np.ndarray, " q"],
  ties: metrics.Ties = "average",
) -> None:
  """The first five clips of some queries, the right one framed.

  Args:
    path: where the PNG goes.
    texts: all of them.
    sim: score of every text with every clip.
    owner: index of each text's clip.
    clip: gives the clip of an index; asked once for each.
    queries: which texts are shown.
    ties: rank among equal scores, see scores/metrics.py; a half is rounded up.
  """
  found = [np.argsort(-sim[q], kind="stable")[:5] for q in queries]
  clips = {int(v): clip(int(v)) for row in found for v in row}
  ranks = metrics.text_to_video_ranks(sim, owner, ties)
  plots.retrievals(
    path,
    [texts[q] for q in queries],
    [[clips[int(v)] for v in row] for row in found],
    [sim[q, row].tolist() for q, row in zip(queries, found, strict=True)],
    np.ceil(ranks[list(queries)]).astype(int).tolist(),
  )


def picture(
  texts: Sequence[str],
  sim: Float[np.ndarray, "t v"],
  clips: Sequence[Video],
  queries: Sequence[int],
) -> Image.Image:
  """`gallery` where texts[i] belongs to clips[i], as an image."""
  owner, clip = np.arange(len(texts)), clips.__getitem__
  return base.image(gallery, texts, sim, owner, clip, queries)


def neighbours(
  video: Float[np.ndarray, "v e"],
  clip: Callable[[int], Video],
  query: int,
  count: int = 5,
) -> Image.Image:
  """A clip, and those whose embeddings are nearest to its own.

  Args:
    video: embeddings of unit norm.
    clip: gives the clip of an index.
    query: index of the clip that is asked with.
    count: of neighbours.
  """
  cosines = video @ video[query]
  order = [int(i) for i in np.argsort(-cosines, kind="stable") if i != query][:count]
  rows = [("this clip", clip(query))]
  rows += [(f"{n}.  {cosines[i]:.3f}", clip(i)) for n, i in enumerate(order, 1)]
  return base.strips(rows)
