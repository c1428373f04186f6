"""The model that `vtr_jax.load` returns, with `search`."""

import os
from typing import Any

from vtr_jax.inference import load as load_lib
from vtr_jax.inference.model import LoadedModel
from vtr_jax.search.query import Query
from vtr_jax.search.searcher import Hit, Searcher


class Model(LoadedModel):
  """A LoadedModel with `search`."""

  def search(
    self, index: str | os.PathLike, text: str = "", **parameters: Any
  ) -> list[Hit]:
    """The clips of an index that match best, best first; see Searcher.query.

    The index is opened on each call; for many queries, or several indexes, create one
    `search.searcher.Searcher`.

    Args:
      index: directory that `python -m vtr_jax.search index` wrote with this model.
      text: of the query.
      **parameters: other fields of `search.query.Query`: image, clip or like instead of
        text, and top, rerank, folder.

    Raises:
      DataError: the index cannot be read, or was made with another model.
      ConfigError: no query, or more than one.
    """
    return Searcher(self, [index]).query(Query(text=text, **parameters))


def load(directory: str | os.PathLike) -> Model:
  """The model of a run; see `inference.load.load`."""
  return load_lib.load(directory, kind=Model)
