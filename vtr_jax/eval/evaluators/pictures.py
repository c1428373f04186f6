"""Figures of a model: attention, token maps, embedding space, retrieval results.

Its metrics are the perplexities of each kind of attention; see viz/attention.py.
"""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from vtr_jax.core.config import require
from vtr_jax.data import captions, loader, sources
from vtr_jax.data.examples import EvalExample
from vtr_jax.data.tokenizers.base import Tokenizer
from vtr_jax.eval import query_texts, ranks
from vtr_jax.eval.evaluators.base import Context
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

  split: str  # all of it is embedded; "test[:10%]" is cheaper
  every: int = 0  # steps between runs; 0 = at the end only; ours
  clips: int = 3  # shown of attention, token maps and retrieval results; ours

  needs = ("embed_video", "embed_text")  # predictions of the objective

  def __post_init__(self):
    require(self.clips > 0, f"clips: {self.clips} must be positive")


class Evaluator:
  """See base.Evaluator."""

  def __init__(self, config: Config, context: Context):
    self.every = config.every
    self._config, self._context = config, context
    self._source = context.data.open(config.split)
    texts, owner = loader.captions(self._source)
    self._texts, self._owner = query_texts.select(texts, owner, "first")
    name = lambda i: f"record {self._owner[i]}"
    captions.check(context.tokenizer, self._texts, self._source.place, name)
    count = min(config.clips, len(self._texts))
    self._queries = np.linspace(0, len(self._texts) - 1, count).astype(int)
    self._embed = context.embedder

  def run(self, params: Params) -> dict[str, float]:
    c = self._context
    clips = [self._clip(int(self._owner[q])) for q in self._queries]
    model = _Model(c, c.objective, params, c.tokenizer, c.mesh)
    self._attention = attention.attention(model, clips)
    self._words = None
    if set(words.PREDICTIONS) <= set(c.objective.predict):
      texts = [self._texts[q] for q in self._queries]
      self._words = words.word_maps(model, clips, texts)
    self._video = self._embed.videos(params, self._source)
    self._text = self._embed.texts(params, self._texts)
    self._results = {
      f"attention/{kind}/perplexity": attention.normalized_perplexity(weights)
      for kind, weights in self._attention.items()
    }
    return self._results

  def report(self) -> str:
    values = [f"{name.split('/')[1]} {x:.2f}" for name, x in self._results.items()]
    return (
      f"{self._config.split}: perplexity of the last layer's attention, as a fraction "
      f"of the tubelets (1 = uniform): {', '.join(values)}"
    )

  def protocol(self) -> dict[str, Any]:
    return dataclasses.asdict(self._config) | dict(
      fingerprint=sources.fingerprint(self._source.directory, self._config.split),
      perplexity="exp(entropy) of the last layer's attention over tubelets, divided by "
      "their number; mean over clips and heads",
    )

  def draw(self, directory: pathlib.Path, name: str) -> None:
    rows = []
    for i, query in enumerate(self._queries):
      clip = self._clip(int(self._owner[query]))
      rows += [(f"clip {i}", clip), *attention.rows(clip, self._attention, index=i)]
      if self._words is not None:
        maps = [("clip", clip), *words.rows(clip, self._words[i])]
        image = base.frame_grid(maps, self._texts[query], height=70)
        image.save(directory / f"{name}_words_{i}.png")
    base.frame_grid(rows).save(directory / f"{name}_attention.png")
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
