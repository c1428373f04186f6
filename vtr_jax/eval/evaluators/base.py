"""The interface of evaluators, their registry, and what they share.

An evaluator is a file in this folder with a dataclass `Config` for its section of
`evals` and a class `Evaluator(config, context)`. Evaluators call the predictions of the
`Objective` and are independent of which objective it is; `Config.needs` lists those.
"""

import dataclasses
import functools
import importlib
import pathlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, Shaped

from vtr_jax.core import sharding
from vtr_jax.core.batch import ClipSpec, TextSpec
from vtr_jax.core.config import choose, complete, read
from vtr_jax.core.errors import ConfigError, printable
from vtr_jax.core.progress import Bar
from vtr_jax.core.sharding import OnDevices
from vtr_jax.data import loader
from vtr_jax.data.examples import DataConfig, EvalExample
from vtr_jax.data.sources import Split
from vtr_jax.data.tokenizers.base import Tokenizer, encode_all
from vtr_jax.data.views import Views
from vtr_jax.data.views import batches as view_batches
from vtr_jax.eval import evaluators, rescore
from vtr_jax.objectives.base import Objective, Params


@dataclasses.dataclass(frozen=True)
class Context:
  """What an evaluator needs of a run."""

  objective: Objective
  clip: ClipSpec
  text: TextSpec
  data: DataConfig  # of training; evaluators open other splits of it
  tokenizer: Tokenizer
  mesh: Mesh
  batch_size: int  # global rows per evaluation batch
  check: Callable[[], None] = lambda: None  # before each batch; raises to stop

  @functools.cached_property
  def embedder(self) -> "Embedder":
    """Of one centred clip per video; evaluators of a split share its embeddings."""
    return Embedder(self)


@runtime_checkable
class Evaluator(Protocol):
  """`run` is called every `every` steps and at the end of training."""

  every: int  # steps; 0 = at the end only

  def run(self, params: Params) -> dict[str, float]:
    """Metrics by name, such as "t2v/R@1"."""
    ...

  def report(self) -> str:
    """Readable summary of the last run."""
    ...

  def protocol(self) -> dict[str, Any]:
    """What the metrics mean: split and its fingerprint, counts, rules."""
    ...

  def draw(self, directory: pathlib.Path, name: str) -> None:
    """Writes figures of the last run."""
    ...


def kinds() -> list[str]:
  """All evaluators: the files of this folder."""
  return sorted({m.name for m in pkgutil.iter_modules(evaluators.__path__)} - {"base"})


def check(sections: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
  """Parses sections of `evals` to (kind, config); reads no data."""
  checked = {}
  for name, section in sections.items():
    where = f"config.evals.{printable(str(name))}"
    if not isinstance(section, Mapping):
      raise ConfigError(f"{where}: expected a group of keys")
    values = dict(section)
    kind = values.pop("kind", "")
    if not isinstance(kind, str):
      raise ConfigError(f"{where}.kind: expected a name, got {kind!r}")
    choose(kind, kinds(), f"{where}.kind")
    checked[name] = (kind, read(_module(kind).Config, values, where))
  return checked


def config_class(section: Any) -> type | None:
  """The dataclass that reads a section of `evals`; None if its kind is not known."""
  kind = section.get("kind") if isinstance(section, Mapping) else None
  return _module(kind).Config if kind in kinds() else None


def with_defaults(sections: Any) -> Any:
  """Sections of `evals`, each with the defaults of its own dataclass."""
  if not isinstance(sections, Mapping):
    return sections
  classes = {name: config_class(section) for name, section in sections.items()}
  return {n: complete(c, sections[n]) if c else sections[n] for n, c in classes.items()}


def _module(kind: str) -> Any:
  return importlib.import_module(f"vtr_jax.eval.evaluators.{kind}")


def build(
  checked: Mapping[str, tuple[str, Any]], context: Context
) -> dict[str, Evaluator]:
  """Builds the evaluators and opens their data.

  Raises:
    ConfigError: the objective lacks a prediction that one needs.
  """
  for name, (kind, config) in checked.items():
    for prediction in config.needs:
      where = f"config.evals.{printable(name)}: kind {kind!r}"
      context.objective.prediction(prediction, where)
  return {n: _module(k).Evaluator(c, context) for n, (k, c) in checked.items()}


class Embedder:
  """Embeds the videos of a split, and texts; every host gets all embeddings."""

  def __init__(
    self,
    context: Context,
    views: Views | None = None,
    average: str = "before",
    progress: bool = False,
  ):
    """Prepares to embed by `context.objective`.

    Args:
      context: of the run.
      views: clips per video whose embeddings are averaged; None = one centred clip, by
        `context.clip` and `context.data`.
      average: "before" or "after" normalisation.
      progress: show progress bars.

    Raises:
      ConfigError: `average` is "before" and the objective has no `encode_video`.
    """
    objective, mesh = context.objective, context.mesh
    self._context, self._progress = context, progress
    self._views = views if views is not None and len(views) > 1 else None
    embed = objective.predict["embed_video"]
    if self._views and average == "before":
      if "encode_video" not in objective.predict:
        raise ConfigError(
          "average: this objective has no encode_video, embeddings before "
          "normalisation; use 'after'"
        )
      embed = objective.predict["encode_video"]
    self._video = OnDevices(embed, mesh)
    hosts = sharding.host_rows(mesh)
    self._hosts = dict(host=hosts.host, num_hosts=hosts.count)
    self._params: Params | None = None  # whose embeddings are kept
    self._kept: dict[tuple[str, str], np.ndarray] = {}  # by directory and split

  @functools.cached_property
  def _text(self) -> OnDevices:
    return OnDevices(self._context.objective.predict["embed_text"], self._context.mesh)

  def videos(self, params: Params, source: Split) -> Float[np.ndarray, "v e"]:
    """Unit-norm embeddings of all videos of `source`, read-only.

    They are kept until other parameters come.
    """
    if params is not self._params:
      self._params, self._kept = params, {}
    key = source.directory, source.name
    if key not in self._kept:
      self._kept[key] = self._embedded(params, source)
      self._kept[key].flags.writeable = False
    return self._kept[key]

  def _embedded(self, params: Params, source: Split) -> Float[np.ndarray, "v e"]:
    c, views = self._context, self._views
    if views is None:
      batches = loader.eval_videos(
        source, c.data, c.clip, c.batch_size, workers=0, **self._hosts
      )
      batches = self._bar(batches, len(source), "clips")
      return self._video.rows(params, batches, len(source))
    rows = each_view(c, self._video, params, source, views, self._progress)
    mean = rows.mean(axis=1, dtype=np.float64)
    norm = np.linalg.norm(mean, axis=1, keepdims=True)
    return (mean / np.maximum(norm, 1e-12)).astype(np.float32)

  def texts(self, params: Params, texts: Sequence[str]) -> Float[np.ndarray, "t e"]:
    """Unit-norm embeddings of `texts`."""
    c = self._context
    batches = loader.eval_texts(texts, c.text, c.tokenizer, c.batch_size, **self._hosts)
    batches = self._bar(batches, len(texts), "texts")
    return self._text.rows(params, batches, len(texts))

  def _bar(self, batches: Iterable, rows: int, unit: str) -> Iterator:
    return _bar(self._context, batches, rows, f"embedding {unit}", self._progress)


def each_view(
  context: Context,
  function: OnDevices,
  params: Params,
  source: Split,
  views: Views,
  progress: bool = False,
) -> Float[np.ndarray, "v w e"]:
  """`function` of every view of every video of `source`; every host gets all."""
  c, hosts, count = context, sharding.host_rows(context.mesh), len(source) * len(views)
  shared = dict(host=hosts.host, num_hosts=hosts.count)
  batches = view_batches(source, c.data, c.clip, views, c.batch_size, **shared)
  what = f"encoding clips, {len(views)} of each video"
  rows = function.rows(params, _bar(c, batches, count, what, progress), count)
  return rows.reshape(len(source), len(views), -1)


def _bar(
  context: Context, batches: Iterable, rows: int, what: str, progress: bool
) -> Iterator:
  total = -(-rows // context.batch_size)
  for batch in Bar(batches, what, total, unit="batch", disable=not progress):
    context.check()
    yield batch


class PairScores:
  """Scores pairs of texts and videos by a prediction that reads both."""

  def __init__(
    self,
    context: Context,
    source: Split,
    prediction: str,
    texts: Mapping[str, Shaped[np.ndarray, "t ..."]],
    progress: str = "",
  ):
    """Prepares to score any text with any video of `source`.

    Args:
      context: of the run.
      source: the videos.
      prediction: name in `Objective.predict`.
      texts: their rows of a batch, such as text_ids.
      progress: what a progress bar is called; "" = no bar.
    """
    self._context, self._texts, self._progress = context, texts, progress
    self._score = OnDevices(context.objective.predict[prediction], context.mesh)
    self._example = EvalExample(source, context.data, context.clip)

  def __call__(
    self, params: Params, texts: Int[np.ndarray, " n"], videos: Int[np.ndarray, " n"]
  ) -> Float[np.ndarray, "n ..."]:
    """The prediction of the pairs (texts[i], videos[i]) of indices."""
    # Sorted by video, so that each is decoded for few batches.
    order = np.argsort(videos, kind="stable")
    batches = self._pairs(texts[order], videos[order])
    name, shown = self._progress, bool(self._progress)
    batches = _bar(self._context, batches, len(order), name, shown)
    scores = self._score.rows(params, batches, len(order))
    return scores[np.argsort(order)]

  def _pairs(self, texts: np.ndarray, videos: np.ndarray) -> Iterator[dict]:
    """Batches of pairs; of each, this host's rows."""
    c = self._context
    rows = sharding.host_rows(c.mesh).local_slice(c.batch_size)
    for start in range(0, len(texts), c.batch_size):
      # The last batch is padded with pair 0, which `OnDevices.rows` drops.
      pairs = np.arange(start, start + c.batch_size)[rows]
      pairs = np.where(pairs < len(texts), pairs, 0)
      clips = {v: self._example(int(v))["video"] for v in np.unique(videos[pairs])}
      own = {key: values[texts[pairs]] for key, values in self._texts.items()}
      yield own | dict(video=np.stack([clips[v] for v in videos[pairs]]))


def matcher(
  context: Context, source: Split, texts: Sequence[str]
) -> Callable[..., Float[np.ndarray, " n"]]:
  """Scores pairs of `texts` and videos by the matching head and their cosines.

  The result takes (params, text indices [n], video indices [n], cosines [n]) and gives
  `rescore.matching` of the pairs.
  """
  ids, valid = encode_all(context.tokenizer, texts, context.text.max_length)
  pairs = PairScores(context, source, "match", dict(text_ids=ids, text_valid=valid))
  weight = context.objective.match_weight

  def match(
    params: Params,
    of: Int[np.ndarray, " n"],
    videos: Int[np.ndarray, " n"],
    cosines: Float[np.ndarray, " n"],
  ) -> Float[np.ndarray, " n"]:
    return rescore.matching(cosines, pairs(params, of, videos), weight)

  return match
