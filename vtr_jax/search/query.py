"""The parameters of a search, validated."""

import dataclasses
import os

from vtr_jax.core.config import require
from vtr_jax.data.captions import blank


@dataclasses.dataclass(frozen=True)
class Query:
  """A query by exactly one of text, image, clip and like.

  Attributes:
    text: as a caption; tokens beyond the model's length are truncated.
    image: a file, or the bytes of one. An indexed image or clip is itself a hit.
    clip: of any video: path, start and end in seconds.
    like: a clip of an index: `index` and `row` of a Hit.
    top: number of hits.
    rerank: number of best hits, at least `top`, that the matching head ranks again,
      which reads text and clip together; 0 = none. Missing files are left out.
    folder: prefix of the path below the indexed folder; "cats/" is a folder.

  Raises:
    ConfigError: no query, or more than one; `top` or `rerank` is out of range.
  """

  text: str = ""
  image: str | os.PathLike | bytes | None = None
  clip: tuple[str | os.PathLike, float, float] | None = None
  like: tuple[int, int] | None = None
  top: int = 10
  rerank: int = 0
  folder: str = ""

  def __post_init__(self):
    text = not blank(self.text)
    given = [text] + [x is not None for x in (self.image, self.clip, self.like)]
    require(any(given), "query: empty; give text, an image or a clip")
    require(sum(given) == 1, "query: give one of text, image, clip and like")
    require(self.top >= 1, f"top: {self.top}; must be 1 or more")
    require(self.rerank >= 0, f"rerank: {self.rerank}; must be 0 or more")
    require(not self.rerank or text, "rerank: needs a text query; leave it out")
