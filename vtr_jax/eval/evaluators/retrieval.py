"""Text-to-video and video-to-text retrieval over a whole split.

The plain cosine ranking is the headline. Rows that use more than the two embeddings
of a pair carry the name of what they use: `dual_softmax/` sees all queries at once,
`rerank/` lets the matching head re-order the first k.
"""

import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np

from vtr_jax.core.config import choose, require
from vtr_jax.data import loader, sources
from vtr_jax.data.examples import EvalExample
from vtr_jax.eval import metrics, protocols, ranks, rescore, scoring
from vtr_jax.eval.evaluators.base import Context, Embedder, Matcher
from vtr_jax.eval.viz import gallery, plots
from vtr_jax.objectives.base import Params

_SHOWN = 6  # queries in the picture


@dataclasses.dataclass(frozen=True)
class Config:
  """One section of `evals` with kind = "retrieval"."""

  split: str  # of the data set
  every: int = 0  # steps between runs; 0 = at the end only; ours
  captions: str = "all"  # which are queries: all | first | joined; ours
  # rank among equal scores: average | optimistic (the papers' code) | pessimistic; ours
  ties: metrics.Ties = "average"
  dual_softmax: float = 0.0  # temperature of that extra row; 0 leaves it out; ours
  rerank: int = 0  # candidates that the matching head re-orders; 0 = none; ours

  def __post_init__(self):
    choose(self.captions, protocols.CAPTIONS, "captions")
    require(self.dual_softmax >= 0, f"dual_softmax: {self.dual_softmax} is negative")
    require(self.rerank >= 0, f"rerank: {self.rerank} is negative")


class Evaluator:
  """See base.Evaluator."""

  def __init__(self, config: Config, context: Context):
    self.every = config.every
    self._config, self._context = config, context
    self._source = context.data.open(config.split)
    texts, owner = loader.captions(self._source)
    self._texts, self._owner = protocols.select(texts, owner, config.captions)
    self._embed = Embedder(context)
    if config.rerank:
      self._match = Matcher(context, self._source, self._texts)

  def run(self, params: Params) -> dict[str, float]:
    c, sim = self._config, self._similarity(params)
    numbers = metrics.retrieval_metrics(sim, self._owner, c.ties)
    if c.dual_softmax:
      both = rescore.dual_softmax(sim, c.dual_softmax)
      numbers |= scoring.extra_row("dual_softmax", both, self._owner, c.ties)
    if c.rerank:
      texts, clips = map(np.arange, sim.shape)
      match = functools.partial(self._match, params)
      ordered = scoring.rerank(sim, texts, clips, c.rerank, match)
      numbers |= scoring.extra_row(f"rerank_{c.rerank}", ordered, self._owner, c.ties)
    self._sim, self._numbers = sim, numbers
    return numbers

  def report(self) -> str:
    clips = len(self._source)
    told = (
      f"{self._config.split}: {len(self._texts)} captions, {clips} clips, chance R@1 "
      f"{100 / clips:.2g}, ties {self._config.ties}"
    )
    return "\n".join([told, *scoring.table(self._numbers)])

  def protocol(self) -> dict[str, Any]:
    return dataclasses.asdict(self._config) | dict(
      fingerprint=sources.fingerprint(self._source.directory, self._config.split),
      clips=len(self._source),
      queries=len(self._texts),
      data=self._context.data.name,
      frames=self._context.clip.num_frames,
      sampling=f"{self._context.data.sampling}, deterministic, one centred clip",
      similarity="cosine, float32",
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
