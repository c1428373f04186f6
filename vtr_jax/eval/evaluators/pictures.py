"""What a model sees, drawn: attention, words on places, the space, what is found.

The only numbers are how widely each kind of attention looks; see pictures/attention.py.
"""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from vtr_jax.core.config import require
from vtr_jax.data import loader, sources
from vtr_jax.data.examples import EvalExample
from vtr_jax.data.tokenizers.base import Tokenizer
from vtr_jax.eval import protocols, ranks
from vtr_jax.eval.evaluators.base import Context, Embedder
from vtr_jax.eval.viz import attention, base, gallery, space, words
from vtr_jax.objectives.base import Objective, Params


class _Model(NamedTuple):
  """A `base.Model` during training."""

  config: Context
  objective: Objective
  params: Params
  tokenizer: Tokenizer
  mesh: Mesh


@dataclasses.dataclass(frozen=True)
class Config:
  """One section of `evals` with kind = "pictures"."""

  split: str  # all of it is embedded: "test[:10%]" costs less
  every: int = 0  # steps between runs; 0 = at the end only; ours
  clips: int = 3  # in the figures of attention, tokens and retrieval; ours

  def __post_init__(self):
    require(self.clips > 0, f"clips: {self.clips} must be positive")


class Evaluator:
  """See base.Evaluator."""

  def __init__(self, config: Config, context: Context):
    self.every = config.every
    self._config, self._context = config, context
    self._source = context.data.open(config.split)
    texts, owner = loader.captions(self._source)
    self._texts, self._owner = protocols.select(texts, owner, "first")
    count = min(config.clips, len(self._texts))
    self._queries = np.linspace(0, len(self._texts) - 1, count).astype(int)
    self._embed = Embedder(context)

  def run(self, params: Params) -> dict[str, float]:
    c = self._context
    clips = [self._clip(int(self._owner[q])) for q in self._queries]
    model = _Model(c, c.objective, params, c.tokenizer, c.mesh)
    self._attention = attention.attention(model, clips)
    self._words = None
    if c.objective.embed_tokens is not None:
      told = [self._texts[q] for q in self._queries]
      self._words = words.word_maps(model, clips, told)
    self._video = self._embed.videos(params, self._source)
    self._text = self._embed.texts(params, self._texts)
    self._numbers = {
      f"attention/{kind}/spread": attention.spread(found)
      for kind, found in self._attention.items()
    }
    return self._numbers

  def report(self) -> str:
    told = [f"{name.split('/')[1]} {x:.2f}" for name, x in self._numbers.items()]
    return (
      f"{self._config.split}: the last layer's attention lies on so much of a clip "
      f"(exp(entropy), 1 = evenly on all of it): {', '.join(told)}"
    )

  def protocol(self) -> dict[str, Any]:
    return dataclasses.asdict(self._config) | dict(
      fingerprint=sources.fingerprint(self._source.directory, self._config.split),
      spread="exp(entropy) of the last layer over tubelets, by their number; mean of "
      "clips and heads",
    )

  def draw(self, directory: pathlib.Path, name: str) -> None:
    strips = []
    for i, query in enumerate(self._queries):
      clip = self._clip(int(self._owner[query]))
      strips += [(f"clip {i}", clip), *attention.rows(clip, self._attention, number=i)]
      if self._words is not None:
        picture = [("clip", clip), *words.rows(clip, self._words[i])]
        made = base.strips(picture, self._texts[query], height=70)
        made.save(directory / f"{name}_words_{i}.png")
    base.strips(strips).save(directory / f"{name}_attention.png")
    labels = [a.label for a in sources.annotations(self._source)]
    space.embedding_map(
      directory / f"{name}_space.png", self._video, self._text, self._owner, labels
    )
    gallery.gallery(
      directory / f"{name}_gallery.png",
      self._texts,
      ranks.cosines(self._text, self._video),
      self._owner,
      self._clip,
      self._queries,
    )

  def _clip(self, index: int) -> np.ndarray:
    example = EvalExample(self._source, self._context.data, self._context.clip)
    return example(index)["video"]
