"""From embeddings and a protocol to numbers; which model made them does not matter."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from jaxtyping import Float, Int

from vtr_jax.core.config import require
from vtr_jax.core.errors import ConfigError, DataError
from vtr_jax.eval import embeddings, metrics, ranks, rescore
from vtr_jax.eval.embeddings import Embeddings
from vtr_jax.eval.protocols import Protocol

_DENSE = 1 << 29  # scores of the largest matrix that extra rows may make: 4 GB each

# (texts [n], videos [n]) -> how well each pair fits.
Match = Callable[[np.ndarray, np.ndarray], Float[np.ndarray, " n"]]


@dataclasses.dataclass(frozen=True)
class Extras:
  """Rows beside the plain number, text to video; 0 leaves one out."""

  dual_softmax: float = 0.0  # temperature; CAMoE's trick, which sees all queries
  querybank: float = 0.0  # temperature; QB-norm, which sees training captions
  rerank: int = 0  # candidates that the matching head re-orders

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      require(value >= 0, f"{name}: {value} is negative")


def check(e: Embeddings, protocol: Protocol, extras: Extras) -> None:
  """Refuses what cannot be scored; looks at no embedding, so none need be made yet.

  Raises:
    ConfigError: more folds than clips.
    DataError: the texts are not of the protocol's kind. Retrieval: there is no bank, or
      it shares clips with the test; the matrix for the extra rows is too large.
      Recognition: a clip has no label, or one that is none. Choice: a clip has not
      exactly one right candidate.
  """
  if protocol.task == "retrieval":
    _need(e, "captions")
    _check_retrieval(e, protocol, extras)
  elif protocol.task == "recognition":
    _need(e, "classes")
    _labels(e)
  else:
    _need(e, "candidates")
    _check_answers(e)


def score(
  e: Embeddings, protocol: Protocol, extras: Extras, match: Match | None = None
) -> dict[str, float]:
  """The numbers of the protocol's task.

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
  """Numbers such as "t2v/R@1" and "dual_softmax/t2v/R@1"; means over folds.

  `e` passes `check` and holds the protocol's queries; see `queries`. The plain numbers
  never hold the whole matrix; extra rows do.
  """
  found = [
    _fold(e, texts, clips, protocol, extras, match)
    for texts, clips in _folds(e, protocol)
  ]
  return {key: float(np.mean([numbers[key] for numbers in found])) for key in found[0]}


def queries(e: Embeddings, captions: str) -> Embeddings:
  """The texts that rule `captions` of the protocol makes queries.

  Raises:
    DataError: captions are to be joined, but were embedded one by one.
  """
  if captions == "all":
    return e
  _, first = np.unique(e.owner, return_index=True)
  if captions == "joined" and len(first) < len(e.owner):
    raise DataError(
      f"embeddings: {len(e.owner)} texts of {len(first)} clips, but the protocol joins "
      "a clip's captions; embed each clip's paragraph as one text"
    )
  return embeddings.rows(e, first)


def recognition(
  e: Embeddings, protocol: Protocol
) -> tuple[dict[str, float], Float[np.ndarray, "c c"]]:
  """metrics.recognition of the clips' labels by the classes' texts; after `check`."""
  scores = class_scores(e.video, e.text, e.owner, protocol.temperature)
  return metrics.recognition(scores, _labels(e))


def choice(e: Embeddings) -> dict[str, float]:
  """Percent of clips whose right sentence has the best cosine of its candidates.

  Candidates of equal score share the place, so that a collapsed model is at chance,
  which is the second number. After `check`.
  """
  assert e.right is not None  # `check` rejects other texts
  score = np.einsum("te,te->t", e.text, e.video[e.owner], dtype=np.float64)
  score = score.astype(np.float32)
  hits, chances = [], []
  for clip in range(len(e.ids)):
    mine = e.owner == clip
    best, right = score[mine] == score[mine].max(initial=-np.inf), e.right[mine]
    hits.append((best & right).sum() / best.sum())
    chances.append(1 / mine.sum())
  return dict(accuracy=100 * float(np.mean(hits)), chance=100 * float(np.mean(chances)))


def class_scores(
  video: Float[np.ndarray, "v e"],
  text: Float[np.ndarray, "t e"],
  owner: Int[np.ndarray, " t"],
  temperature: float,
) -> Float[np.ndarray, "c v"]:
  """How well each class fits each video; see evaluators/zero_shot.py.

  Args:
    video: unit-norm embeddings.
    text: unit-norm embeddings.
    owner: class of each text, 0 to c - 1, each at least once.
    temperature: between the texts of a class; 0 = cosine with the class's mean.
  """
  # In float64 and rounded at the end: else texts of one embedding would differ in the
  # last bit by their class's size, and a collapsed model would not be at chance.
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


def extra_row(
  row: str,
  scores: Float[np.ndarray, "t v"],
  owner: Int[np.ndarray, " t"],
  ties: metrics.Ties,
) -> dict[str, float]:
  """Numbers "<row>/t2v/R@1" ... of scores that use more than the two embeddings."""
  found = metrics.summarize(metrics.text_to_video_ranks(scores, owner, ties))
  return {f"{row}/t2v/{key}": value for key, value in found.items()}


def rerank(
  sim: Float[np.ndarray, "t v"],
  texts: Int[np.ndarray, " t"],
  clips: Int[np.ndarray, " v"],
  k: int,
  match: Match,
) -> Float[np.ndarray, "t v"]:
  """Scores by which each text's first `k` clips are in the matching head's order.

  Args:
    sim: cosines of the texts and clips.
    texts: their numbers, as `match` knows them.
    clips: their numbers, as `match` knows them.
    k: candidates of each text.
    match: scores pairs.
  """
  k = min(k, sim.shape[1])
  candidates = np.argsort(-sim, axis=1, kind="stable")[:, :k]
  scores = match(np.repeat(texts, k), clips[candidates.reshape(-1)])
  return rescore.rerank(sim, candidates, scores.reshape(-1, k))


def table(numbers: Mapping[str, float]) -> list[str]:
  """Lines of retrieval numbers: one for each way of scoring, plain ones first."""
  names = ("R@1", "R@5", "R@10", "MedR", "MeanR")
  lines = [f"{'':18}" + "".join(f"{name:>8}" for name in names)]
  for way in dict.fromkeys(key.rpartition("/")[0] for key in numbers):
    values = (numbers[f"{way}/{name}"] for name in names)
    lines.append(f"{way:18}" + "".join(f"{value:8.1f}" for value in values))
  return lines


def _need(e: Embeddings, wanted: str) -> None:
  """Refuses texts of another kind: captions, classes or candidates."""
  kind = "captions" if e.names is e.ids else "classes"
  kind = kind if e.right is None else "candidates"
  if kind != wanted:
    raise DataError(
      f"embeddings: the texts are {kind}, the protocol's are {wanted}; give another "
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
    if rows * len(clips) > _DENSE:
      raise DataError(
        f"embeddings: {rows:,} texts by {len(clips):,} clips are too many for extra "
        "rows, which need the whole matrix; leave them out"
      )


def _check_bank(e: Embeddings) -> None:
  """Refuses a bank that knows the test."""
  if e.bank is None:
    raise DataError(
      "embeddings: no bank.npy, which the querybank row needs: embeddings of training "
      "captions; add it, or leave the row out"
    )
  shared = set(e.ids) & set(e.bank_ids)
  if shared:
    raise DataError(
      f"bank: clip {min(shared)!r} is also in the test; take the bank from the "
      "training split alone"
    )


def _check_answers(e: Embeddings) -> None:
  given = np.bincount(e.owner, minlength=len(e.ids))
  right = np.bincount(e.owner[e.right], minlength=len(e.ids))
  for name, ours, all_ in zip(e.ids, right, given, strict=True):
    if ours != 1:
      raise DataError(
        f"clip {name!r}: {ours} right candidates of {all_}; give it exactly one"
      )


def _labels(e: Embeddings) -> Int[np.ndarray, " v"]:
  """The class of each clip."""
  known = {name: i for i, name in enumerate(e.names)}
  for clip, label in zip(e.ids, e.labels, strict=True):
    if label not in known:
      raise DataError(
        f"clip {clip!r}: its label {label!r} is no class of the {len(known)} with "
        "texts; add texts of it, or drop the clip"
      )
  return np.array([known[label] for label in e.labels])


def _folds(
  e: Embeddings, protocol: Protocol
) -> Iterator[tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]]:
  """(texts, clips) of each fold: neighbouring clips and their texts alone."""
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
  """Numbers of one fold."""
  text, video, owner = e.text[texts], e.video[clips], e.owner[texts] - clips[0]
  ties = protocol.ties
  numbers = metrics.both_ways(*ranks.ranks(text, video, owner, ties))
  if extras != Extras():
    sim = ranks.cosines(text, video)
  if extras.dual_softmax:
    scores = rescore.dual_softmax(sim, extras.dual_softmax)
    numbers |= extra_row("dual_softmax", scores, owner, ties)
  if extras.querybank:
    assert e.bank is not None  # `check` rejects its lack
    bank = ranks.cosines(e.bank, video)
    scores = rescore.querybank(sim, bank, extras.querybank)
    numbers |= extra_row("querybank", scores, owner, ties)
  if extras.rerank:
    if match is None:
      raise ConfigError("rerank: needs a checkpoint with a matching head; use 0")
    scores = rerank(sim, texts, clips, extras.rerank, match)
    numbers |= extra_row(f"rerank_{extras.rerank}", scores, owner, ties)
  return numbers
