"""What `vtr_jax.load` gives: a model that also searches."""

import os
from typing import Any

from vtr_jax import model, trained
from vtr_jax.search.searcher import Hit, Searcher


class Model(model.Model):
  """See model.Model; and `search`."""

  def search(self, index: str | os.PathLike, text: str = "", **query: Any) -> list[Hit]:
    """Clips of an index that fit best, best first.

    The index is read anew each time; for many queries make one `search.Searcher`.

    Args:
      index: directory that `python -m vtr_jax.search index` wrote with this model.
      text: words; or give `image`, `clip` or `like` of Searcher.query, and its `top`,
        `rerank` and `folder`.

    Raises:
      DataError: the index cannot be read, or was made with another model.
      ConfigError: no query, or more than one.
    """
    return Searcher(self, [index]).query(text=text, **query)


def load(directory: str | os.PathLike) -> Model:
  """The model of a run: a training's --workdir, or what `vtr_jax.convert` wrote.

  Raises:
    CheckpointError: it is no run, or has no checkpoint that can be read.
    DataError: it has no tokenizer.
  """
  return Model(trained.load(directory))
