"""What `vtr_jax.load` gives: a model that also searches."""

import os

from vtr_jax.inference import load as load_lib
from vtr_jax.inference import model
from vtr_jax.search.searcher import Hit, Searcher


class Model(model.Model):
  """See model.Model; and `search`."""

  def search(
    self,
    index: str | os.PathLike,
    text: str = "",
    *,
    image: str | os.PathLike | bytes | None = None,
    clip: tuple[str | os.PathLike, float, float] | None = None,
    like: tuple[int, int] | None = None,
    top: int = 10,
    rerank: int = 0,
    folder: str = "",
  ) -> list[Hit]:
    """Clips of an index that fit best, best first; see Searcher.query.

    The index is read anew each time; for many queries, or several indexes, make one
    `search.searcher.Searcher`.

    Args:
      index: directory that `python -m vtr_jax.search index` wrote with this model.
      text: words; or give an image, a clip (path, start, end) or what is `like` a hit.
      image, clip, like, top, rerank, folder: as of Searcher.query.

    Raises:
      DataError: the index cannot be read, or was made with another model.
      ConfigError: no query, or more than one.
    """
    return Searcher(self, [index]).query(
      text=text,
      image=image,
      clip=clip,
      like=like,
      top=top,
      rerank=rerank,
      folder=folder,
    )


def load(directory: str | os.PathLike) -> Model:
  """The model of a run: a training's --workdir, or what `vtr_jax.convert` wrote.

  Raises:
    CheckpointError: it is no run, or has no checkpoint that can be read.
    DataError: it has no tokenizer.
  """
  return Model(load_lib.load(directory))
