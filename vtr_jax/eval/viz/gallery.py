"""Retrieval results: the top clips of queries, and the nearest neighbours of a clip."""

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
  """The top five clips of some queries; the correct one is framed.

  Args:
    path: of the PNG.
    texts: all texts.
    sim: score of every text with every clip.
    owner: index of each text's clip.
    clip: loads the clip of an index; called once per index.
    queries: indices of the texts to show.
    ties: rank among equal scores, see metrics.py; halves are rounded up.
  """
  results = [np.argsort(-sim[q], kind="stable")[:5] for q in queries]
  clips = {int(v): clip(int(v)) for row in results for v in row}
  ranks = metrics.text_to_video_ranks(sim, owner, ties)
  plots.retrievals(
    path,
    [texts[q] for q in queries],
    [[clips[int(v)] for v in row] for row in results],
    [sim[q, row].tolist() for q, row in zip(queries, results, strict=True)],
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
  """A clip and its nearest neighbours by cosine.

  Args:
    video: unit-norm embeddings.
    clip: loads the clip of an index.
    query: index of the clip.
    count: number of neighbours.
  """
  cosines = video @ video[query]
  order = [int(i) for i in np.argsort(-cosines, kind="stable") if i != query][:count]
  rows = [("query", clip(query))]
  rows += [(f"{n}.  {cosines[i]:.3f}", clip(i)) for n, i in enumerate(order, 1)]
  return base.frame_grid(rows)
