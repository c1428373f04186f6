"""Metrics of embeddings under a protocol, whichever model made them."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from jaxtyping import Float, Int

from vtr_jax.core.config import require
from vtr_jax.core.errors import ConfigError, DataError
from vtr_jax.eval import embeddings, metrics, ranks, rescore
from vtr_jax.eval.embeddings import Embeddings
from vtr_jax.eval.protocols import Protocol

_MAX_SCORES = 1 << 29  # in a full similarity matrix: 4 GB in float64

# (text indices [n], video indices [n], cosines [n]) -> matching scores of the pairs.
Match = Callable[[np.ndarray, np.ndarray, np.ndarray], Float[np.ndarray, " n"]]


@dataclasses.dataclass(frozen=True)
class Extras:
  """Rescored metrics in addition to the plain ones, text to video; 0 = omitted."""

  dual_softmax: float = 0.0  # temperature; CAMoE, uses all test queries
  querybank: float = 0.0  # temperature; QB-norm, uses training captions
  rerank: int = 0  # candidates re-ranked by the matching head

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      require(value >= 0, f"{name}: {value} is negative")


def check(e: Embeddings, protocol: Protocol, extras: Extras) -> None:
  """Rejects what cannot be scored, before anything is embedded: reads no embedding.

  Raises:
    ConfigError: more folds than clips.
    DataError: the texts are not of the protocol's kind. Retrieval: the bank is missing
      or shares clips with the test; the matrix for `extras` is too large. Recognition:
      a clip's label is missing or not a class. Choice: a clip does not have exactly
      one correct candidate.
  """
  if protocol.task == "retrieval":
    _check_kind(e, "captions")
    _check_retrieval(e, protocol, extras)
  elif protocol.task == "recognition":
    _check_kind(e, "classes")
    _labels(e)
  else:
    _check_kind(e, "candidates")
    _check_answers(e)


def score(
  e: Embeddings, protocol: Protocol, extras: Extras, match: Match | None = None
) -> dict[str, float]:
  """Metrics of the protocol's task.

  Raises:
    ConfigError, DataError: see `check`.
  """
  check(e, protocol, extras)
  if protocol.task == "retrieval":
    return retrieval(e, protocol, extras, match)
  return choice(e) if protocol.task == "choice" else recognition(e, protocol)[0]


def retrieval(
  e: Embeddings, protocol: Protocol, extras: Extras, match: Match | None = None
) -> dict[str, float]:
  """Metrics such as "t2v/R@1" and "dual_softmax/t2v/R@1"; means over folds.

  `e` must pass `check` and hold only the protocol's queries; see `queries`. Only
  `extras` need the full similarity matrix.
  """
  folds = [
    _fold(e, texts, clips, protocol, extras, match)
    for texts, clips in _folds(e, protocol)
  ]
  return {key: float(np.mean([fold[key] for fold in folds])) for key in folds[0]}


def queries(e: Embeddings, captions: str) -> Embeddings:
  """The embeddings with only the queries of the protocol's rule `captions`.

  Raises:
    DataError: captions should be joined, but were embedded separately.
  """
  if captions == "all":
    return e
  _, first = np.unique(e.owner, return_index=True)
  if captions == "joined" and len(first) < len(e.owner):
    raise DataError(
      f"embeddings: {len(e.owner)} texts of {len(first)} clips, but the protocol joins "
      "a clip's captions; embed each clip's paragraph as one text"
    )
  return embeddings.select_texts(e, first)


def recognition(
  e: Embeddings, protocol: Protocol
) -> tuple[dict[str, float], Float[np.ndarray, "c c"]]:
  """`metrics.recognition` of the clips by the texts of the classes; after `check`."""
  scores = class_scores(e.video, e.text, e.owner, protocol.temperature)
  return metrics.recognition(scores, _labels(e))


def choice(e: Embeddings) -> dict[str, float]:
  """Accuracy of multiple choice and its chance level, in percent; after `check`.

  Ties for the best candidate count fractionally, so a collapsed model is at chance.
  """
  assert e.right is not None  # `check` requires it
  score = np.einsum("te,te->t", e.text, e.video[e.owner], dtype=np.float64)
  score = score.astype(np.float32)
  hits, chances = [], []
  for clip in range(len(e.ids)):
    own = e.owner == clip
    best, right = score[own] == score[own].max(initial=-np.inf), e.right[own]
    hits.append((best & right).sum() / best.sum())
    chances.append(1 / own.sum())
  return dict(accuracy=100 * float(np.mean(hits)), chance=100 * float(np.mean(chances)))


def class_scores(
  video: Float[np.ndarray, "v e"],
  text: Float[np.ndarray, "t e"],
  owner: Int[np.ndarray, " t"],
  temperature: float,
) -> Float[np.ndarray, "c v"]:
  """Scores of classes and videos; see evaluators/zero_shot.py.

  Args:
    video: unit-norm embeddings.
    text: unit-norm embeddings.
    owner: class of each text; every class 0 to c - 1 has a text.
    temperature: of the soft maximum over a class's texts; 0 = cosine with their mean.
  """
  # float64, rounded at the end: otherwise equal texts would score differently in the
  # last bit depending on their class's size, and a collapsed model would beat chance.
  video, scores = video.astype(np.float64), []
  for i in range(owner.max() + 1):
    texts = text[owner == i].astype(np.float64)
    if temperature:
      cosines = texts @ video.T / temperature
      top = cosines.max(axis=0)
      scores.append(temperature * (top + np.log(np.exp(cosines - top).mean(axis=0))))
    else:
      center = texts.mean(axis=0)
      scores.append(video @ (center / max(np.linalg.norm(center), 1e-12)))
  return np.stack(scores).astype(np.float32)


def rescored(
  name: str,
  scores: Float[np.ndarray, "t v"],
  owner: Int[np.ndarray, " t"],
  ties: metrics.Ties,
) -> dict[str, float]:
  """Metrics "<name>/t2v/R@1" ... of scores from rescore.py."""
  summary = metrics.summarize(metrics.text_to_video_ranks(scores, owner, ties))
  return {f"{name}/t2v/{key}": value for key, value in summary.items()}


def rerank(
  sim: Float[np.ndarray, "t v"],
  texts: Int[np.ndarray, " t"],
  clips: Int[np.ndarray, " v"],
  k: int,
  match: Match,
) -> Float[np.ndarray, "t v"]:
  """Scores that rank each text's top `k` clips by the matching scores.

  Args:
    sim: cosines of the texts and clips.
    texts: indices of the texts, as `match` takes them.
    clips: indices of the clips, as `match` takes them.
    k: candidates per text.
    match: matching scores of pairs.
  """
  k = min(k, sim.shape[1])
  candidates = np.argsort(-sim, axis=1, kind="stable")[:, :k]
  cosines = np.take_along_axis(sim, candidates, axis=1).reshape(-1)
  scores = match(np.repeat(texts, k), clips[candidates.reshape(-1)], cosines)
  return rescore.rerank(sim, candidates, scores.reshape(-1, k))


def table(results: Mapping[str, float]) -> list[str]:
  """Lines of retrieval metrics: one per direction and kind of scores."""
  names = ("R@1", "R@5", "R@10", "MedR", "MeanR")
  lines = [f"{'':18}" + "".join(f"{name:>8}" for name in names)]
  for way in dict.fromkeys(key.rpartition("/")[0] for key in results):
    values = (results[f"{way}/{name}"] for name in names)
    lines.append(f"{way:18}" + "".join(f"{value:8.1f}" for value in values))
  return lines


def _check_kind(e: Embeddings, expected: str) -> None:
  """Rejects texts that are not the expected captions, classes or candidates."""
  kind = "captions" if e.names is e.ids else "classes"
  kind = kind if e.right is None else "candidates"
  if kind != expected:
    raise DataError(
      f"embeddings: the texts are {kind}, the protocol needs {expected}; give another "
      "--protocol, or embed other texts (docs/evaluation.md)"
    )


def _check_retrieval(e: Embeddings, protocol: Protocol, extras: Extras) -> None:
  folds, clips = protocol.folds, len(e.ids)
  require(folds <= clips, f"folds: {folds} are more than the {clips} clips; use fewer")
  if extras.querybank:
    _check_bank(e)
  if extras == Extras():
    return
  for texts, clips in _folds(e, protocol):
    rows = max(len(texts), len(e.bank_ids) if extras.querybank else 0)
    if rows * len(clips) > _MAX_SCORES:
      raise DataError(
        f"embeddings: {rows:,} texts by {len(clips):,} clips are too many for "
        "rescoring, which needs the full similarity matrix; omit it"
      )


def _check_bank(e: Embeddings) -> None:
  """Rejects a bank that overlaps with the test clips."""
  if e.bank is None:
    raise DataError(
      "embeddings: no bank.npy, which querybank needs: embeddings of training "
      "captions; add it, or omit --querybank"
    )
  shared = set(e.ids) & set(e.bank_ids)
  if shared:
    raise DataError(
      f"bank: clip {min(shared)!r} is also in the test; take the bank only from "
      "the training split"
    )


def _check_answers(e: Embeddings) -> None:
  candidates = np.bincount(e.owner, minlength=len(e.ids))
  correct = np.bincount(e.owner[e.right], minlength=len(e.ids))
  for name, answers, count in zip(e.ids, correct, candidates, strict=True):
    if answers != 1:
      raise DataError(
        f"clip {name!r}: {answers} right candidates of {count}; give it exactly one"
      )


def _labels(e: Embeddings) -> Int[np.ndarray, " v"]:
  """Class index of each clip."""
  index = {name: i for i, name in enumerate(e.names)}
  for clip, label in zip(e.ids, e.labels, strict=True):
    if label not in index:
      raise DataError(
        f"clip {clip!r}: its label {label!r} is not one of the {len(index)} classes "
        "with texts; add texts of it, or drop the clip"
      )
  return np.array([index[label] for label in e.labels])


def _folds(
  e: Embeddings, protocol: Protocol
) -> Iterator[tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]]:
  """(texts, clips) of each fold: contiguous clips and their own texts."""
  for clips in np.array_split(np.arange(len(e.ids)), protocol.folds):
    yield np.flatnonzero((e.owner >= clips[0]) & (e.owner <= clips[-1])), clips


def _fold(
  e: Embeddings,
  texts: Int[np.ndarray, " n"],
  clips: Int[np.ndarray, " m"],
  protocol: Protocol,
  extras: Extras,
  match: Match | None,
) -> dict[str, float]:
  """Metrics of one fold."""
  text, video, owner = e.text[texts], e.video[clips], e.owner[texts] - clips[0]
  ties = protocol.ties
  results = metrics.both_ways(*ranks.ranks(text, video, owner, ties))
  if extras != Extras():
    sim = ranks.cosines(text, video)
  if extras.dual_softmax:
    scores = rescore.dual_softmax(sim, extras.dual_softmax)
    results |= rescored("dual_softmax", scores, owner, ties)
  if extras.querybank:
    assert e.bank is not None  # `check` requires it
    bank = ranks.cosines(e.bank, video)
    scores = rescore.querybank(sim, bank, extras.querybank)
    results |= rescored("querybank", scores, owner, ties)
  if extras.rerank:
    if match is None:
      raise ConfigError("rerank: needs a checkpoint with a matching head; use 0")
    scores = rerank(sim, texts, clips, extras.rerank, match)
    results |= rescored(f"rerank_{extras.rerank}", scores, owner, ties)
  return results
