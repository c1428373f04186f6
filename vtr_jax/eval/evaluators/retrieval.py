"""Text-to-video and video-to-text retrieval over a full split.

The main metrics rank by plain cosine. Those of rescored similarities are prefixed:
`dual_softmax/` uses all queries at once, `rerank_<k>/` re-ranks the top k with the
matching head.
"""

import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np

from vtr_jax.core.config import choose, require
from vtr_jax.data import captions, loader, sources
from vtr_jax.data.examples import EvalExample
from vtr_jax.eval import metrics, query_texts, ranks, rescore, scoring
from vtr_jax.eval.evaluators.base import Context, matcher
from vtr_jax.eval.viz import gallery, plots
from vtr_jax.objectives.base import Params

_SHOWN = 6  # queries in the figure


@dataclasses.dataclass(frozen=True)
class Config:
  """One section of `evals` with kind = "retrieval"."""

  split: str  # of the data set
  every: int = 0  # steps between runs; 0 = at the end only; ours
  captions: str = "all"  # queries: all | first | joined; ours
  # rank among equal scores: average | optimistic (the papers' code) | pessimistic; ours
  ties: metrics.Ties = "average"
  dual_softmax: float = 0.0  # temperature; 0 = omitted; ours
  rerank: int = 0  # candidates re-ranked by the matching head; 0 = omitted; ours

  @property
  def needs(self) -> tuple[str, ...]:
    """Predictions of the objective that are read."""
    return ("embed_video", "embed_text", *(("match",) if self.rerank else ()))

  def __post_init__(self):
    choose(self.captions, query_texts.CAPTIONS, "captions")
    require(self.dual_softmax >= 0, f"dual_softmax: {self.dual_softmax} is negative")
    require(self.rerank >= 0, f"rerank: {self.rerank} is negative")


class Evaluator:
  """See base.Evaluator."""

  def __init__(self, config: Config, context: Context):
    self.every = config.every
    self._config, self._context = config, context
    self._source = context.data.open(config.split)
    texts, owner = loader.captions(self._source)
    self._texts, self._owner = query_texts.select(texts, owner, config.captions)
    name = lambda i: f"record {self._owner[i]}"
    captions.check(context.tokenizer, self._texts, self._source.place, name)
    self._embed = context.embedder
    if config.rerank:
      self._match = matcher(context, self._source, self._texts)

  def run(self, params: Params) -> dict[str, float]:
    c, sim = self._config, self._similarity(params)
    results = metrics.retrieval_metrics(sim, self._owner, c.ties)
    if c.dual_softmax:
      scores = rescore.dual_softmax(sim, c.dual_softmax)
      results |= scoring.rescored("dual_softmax", scores, self._owner, c.ties)
    if c.rerank:
      texts, clips = map(np.arange, sim.shape)
      match = functools.partial(self._match, params)
      scores = scoring.rerank(sim, texts, clips, c.rerank, match)
      results |= scoring.rescored(f"rerank_{c.rerank}", scores, self._owner, c.ties)
    self._sim, self._results = sim, results
    return results

  def report(self) -> str:
    clips = len(self._source)
    title = (
      f"{self._config.split}: {len(self._texts)} captions, {clips} clips, chance R@1 "
      f"{100 / clips:.2g}, ties {self._config.ties}"
    )
    return "\n".join([title, *scoring.table(self._results)])

  def protocol(self) -> dict[str, Any]:
    return dataclasses.asdict(self._config) | dict(
      fingerprint=sources.fingerprint(self._source.directory, self._config.split),
      clips=len(self._source),
      queries=len(self._texts),
      data=self._context.data.name,
      frames=self._context.clip.num_frames,
      sampling=f"{self._context.data.sampling}, deterministic, one centred clip",
      similarity=ranks.SIMILARITY,
      reranking=rescore.MATCHING if self._config.rerank else "",
    )

  def draw(self, directory: pathlib.Path, name: str) -> None:
    title = f"{name}: cosine of texts and videos"
    plots.similarity(
      directory / f"{name}_similarity.png", self._sim, title, self._owner
    )
    queries = np.linspace(0, len(self._texts) - 1, _SHOWN).astype(int)
    gallery.gallery(
      directory / f"{name}_retrievals.png",
      self._texts,
      self._sim,
      self._owner,
      self._clip,
      queries,
      self._config.ties,
    )

  def _similarity(self, params: Params) -> np.ndarray:
    """Cosines [texts, videos], float32."""
    video = self._embed.videos(params, self._source)
    text = self._embed.texts(params, self._texts)
    return ranks.cosines(text, video)

  def _clip(self, index: int) -> np.ndarray:
    example = EvalExample(self._source, self._context.data, self._context.clip)
    return example(index)["video"]
