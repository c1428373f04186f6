"""Evaluates a run, or any model's embeddings or predictions, by a protocol.

  python -m vtr_jax.evaluate --checkpoint=runs/mine --data=msvd --protocol=msvd
  python -m vtr_jax.evaluate --embeddings=DIR --protocol=msrvtt_1ka
  ... --set=captions=first --set=ties=optimistic     changes of the protocol's fields
  ... --dual_softmax=0.05 --querybank=0.05 --rerank=20         additional, rescored rows
  ... --save_embeddings=DIR                          layout: docs/evaluation.md
  python -m vtr_jax.evaluate --checkpoint=runs/ucf101 --protocol=ucf101_ft
  python -m vtr_jax.evaluate --checkpoint=runs/ask --data=msvd --protocol=msvd_qa
  python -m vtr_jax.evaluate --predictions=FILE --protocol=msvd_qa --data=data/msvd
  ... --annotations=DIR                     the published files, instead of --data
  ... --answers=FILE              a JSON list: the texts that predicted numbers mean

The protocols are in eval/protocols.py, the layouts of files in docs/evaluation.md.
Prints a table and writes results.json, with the full protocol, to --out; of a
classifier also a table of its classes and their confusion matrix, of a run that answers
questions its predictions.jsonl. Moments of a run are found by `vtr_jax.moments`.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import jax
from absl import flags

from vtr_jax.core import cli
from vtr_jax.core.config import require
from vtr_jax.core.errors import ConfigError
from vtr_jax.core.mirror import Mirror
from vtr_jax.eval import (
  embeddings,
  noted_answers,
  noted_moments,
  protocols,
  ranks,
  rescore,
  scoring,
)
from vtr_jax.eval.embeddings import Embeddings
from vtr_jax.eval.noted import Scores, Truth
from vtr_jax.eval.protocols import Protocol
from vtr_jax.eval.scoring import Extras
from vtr_jax.inference import answer_split, embed_split, recognize
from vtr_jax.prepare import truth as truths
from vtr_jax.train import workdir

# Flags that have no effect on each kind of input.
_UNUSED = dict(
  checkpoint=("annotations", "answers"),
  embeddings=(
    *("data", "candidates", "batch_size", "save_embeddings"),
    *("annotations", "answers"),
  ),
  predictions=("candidates", "batch_size", "save_embeddings"),
)


@dataclasses.dataclass(frozen=True)
class Request:
  """What to evaluate, and how; the command's flags."""

  name: str  # protocol
  changes: dict[str, Any]  # of the protocol's fields
  checkpoint: str = ""  # directory of a run; this, `embeddings` or `predictions`
  embeddings: str = ""  # directory; see eval/embeddings.py
  predictions: str = ""  # file; see eval/predictions.py
  annotations: str = ""  # published files that predictions are scored against
  answers: str = ""  # JSON list of the texts that predicted numbers mean
  data: str = ""  # prepared data: a directory, or a name in the run's; "" = the run's
  candidates: str = ""  # JSON file of a multiple choice
  extras: Extras = dataclasses.field(default_factory=Extras)
  batch_size: int = 0  # clips; 0 = the run's eval_batch_size
  save_embeddings: str = ""  # directory to write; "" = none
  out: str = ""  # directory of results.json; "" = <model>/evaluations/<name>

  def __post_init__(self):
    kinds = [kind for kind in _UNUSED if getattr(self, kind)]
    named = ", ".join(f"--{kind}" for kind in _UNUSED)
    require(len(kinds) == 1, f"{named}: give exactly one")
    for flag in _UNUSED[kinds[0]]:
      value = getattr(self, flag)
      require(not value, f"--{flag}: {value} is not for --{kinds[0]}; omit it")
    if self.embeddings:
      for name in protocols.EMBEDDING_FIELDS:
        changed = name in self.changes
        require(not changed, f"--set={name}: is for --checkpoint; omit it")
      require(not self.extras.rerank, "--rerank: embeddings have no matching head")

  @property
  def kind(self) -> str:
    """checkpoint | embeddings | predictions."""
    return next(kind for kind in _UNUSED if getattr(self, kind))

  @property
  def model(self) -> str:
    """Directory of what is evaluated; of a file, that of its name."""
    if not self.predictions:
      return self.checkpoint or self.embeddings
    path = pathlib.Path(self.predictions)
    return str(path.with_suffix("") if path.suffix else path.with_suffix(".scores"))

  @property
  def place(self) -> Mirror:
    """Where results.json is written."""
    out = self.out or f"{self.model.rstrip('/')}/evaluations/{self.name}"
    return Mirror(out, fresh=True)


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What is printed and written."""

  results: dict[str, float]
  clips: int
  texts: int  # of a classifier: 0
  split: Any  # of the data, as its manifest names it; None = not known
  head: str  # first line
  lines: list[str]  # of the metrics
  record: dict[str, Any]  # of results.json: how the scores were made


def evaluate(request: Request) -> dict[str, float]:
  """Embeds or classifies a split, scores, prints and writes; returns the metrics.

  Raises:
    VtrError: one line that says what to fix; see errors.py.
  """
  protocol, match = protocols.get(request.name, request.changes), None
  if protocol.task != "retrieval" and request.extras != Extras():
    raise ConfigError(f"rescoring: is for retrieval, not for {protocol.task}")
  _check_input(request, protocol)
  if request.predictions:
    return _score_predictions(request, protocol)
  if protocol.task == "answers":
    return _answer(request, protocol)
  if protocol.task == "actions":
    return _classify(request, protocol)
  if request.save_embeddings:
    embeddings.check_vacant(request.save_embeddings)
  if request.embeddings:
    e = embeddings.load(request.embeddings)
    if protocol.task == "retrieval":
      e = scoring.queries(e, protocol.captions)
  else:
    e, match = embed_split.embed(
      request.checkpoint,
      protocol,
      data=request.data,
      candidates=request.candidates,
      batch_size=request.batch_size,
      extras=request.extras,
    )
  results = scoring.score(e, protocol, request.extras, match)
  if jax.process_index() == 0:
    made = _of_embeddings(request, protocol, e, results)
    _write(request, protocol, made)
    if request.save_embeddings:
      embeddings.save(request.save_embeddings, e)
  return results


def _check_input(request: Request, protocol: Protocol) -> None:
  """Rejects flags that the protocol's task does not have."""
  task, given = protocol.task, request.kind
  of_task = dict(
    actions=("checkpoint",),
    answers=("checkpoint", "predictions"),
    moments=("predictions",),
  )
  takes = of_task.get(task, ("checkpoint", "embeddings"))
  cure = f"give {' or '.join(f'--{kind}' for kind in takes)}"
  if task == "moments" and given == "checkpoint":
    cure = (
      f"run python -m vtr_jax.moments --checkpoint={request.checkpoint} "
      f"--protocol={request.name} --data={request.data or 'DATA'}"
    )
  require(
    given in takes,
    f"--{given}: is not how task {task!r} of protocol {request.name} is evaluated; "
    + cure,
  )
  for flag in ("candidates", "save_embeddings") if task in of_task else ():
    value = getattr(request, flag)
    require(not value, f"--{flag}: {value} is not for task {task!r}; omit it")


def _classify(request: Request, protocol: Protocol) -> dict[str, float]:
  """`evaluate` of a classifier."""
  evaluator, results, origin = recognize.recognize(
    request.checkpoint, protocol, request.data, request.batch_size
  )
  if jax.process_index() == 0:
    made = evaluator.protocol()
    outcome = Outcome(
      results,
      made["clips"],
      0,
      protocol.split,
      f"{request.name}: {protocol.windows} x {protocol.crops} views of each clip",
      evaluator.summary().split("\n"),
      dict(score=made["score"], ties=made["ties"], classes=made["classes"])
      | dict(scores=dict(directory=request.checkpoint, manifest=origin)),
    )
    place = _write(request, protocol, outcome, evaluator.draw)
    files = f"{request.name}_classes.md and _confusion.png"
    print(f"per class: {place.name}/{files}", flush=True)
  return results


def _answer(request: Request, protocol: Protocol) -> dict[str, float]:
  """`evaluate` of a run that answers questions."""
  run = answer_split.Answering(
    request.checkpoint, protocol, request.data, request.batch_size
  )
  truth = truths.read(protocol, run.directory)
  noted_answers.check(protocol, truth)
  predicted, origin = run.answers(truth)
  words = run.rows.classes if protocol.form == "open" else ()
  scores = noted_answers.of(predicted, protocol, truth, words)
  if jax.process_index() == 0:
    source = dict(directory=request.checkpoint, manifest=origin)
    outcome = _noted(request, protocol, truth, scores, dict(scores=source))
    save = lambda out, _: answer_split.save(out, truth, predicted, words)
    place = _write(request, protocol, outcome, save)
    print(f"answers: {place.name}/predictions.jsonl", flush=True)
  return scores.results()


def _score_predictions(request: Request, protocol: Protocol) -> dict[str, float]:
  """`evaluate` of a file of answers or moments."""
  path = request.predictions
  truth = truths.read(protocol, request.data, request.annotations)
  if protocol.task == "answers":
    scores = noted_answers.score(path, protocol, truth, request.answers)
  else:
    scores = noted_moments.score(path, protocol, truth)
  source = dict(
    file=path,
    sha256=hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest(),
    answers=request.answers,
    truth=request.data or request.annotations,
  )
  outcome = _noted(request, protocol, truth, scores, dict(predictions=source))
  _write(request, protocol, outcome)
  return outcome.results


def _noted(
  request: Request,
  protocol: Protocol,
  truth: Truth,
  scores: Scores,
  source: dict[str, Any],
) -> Outcome:
  """What is written of answers or moments; `source` is where they come from."""
  what = dict(answers="questions", moments="queries")[protocol.task]
  clips = len(set(truth.records))
  return Outcome(
    scores.results(),
    clips,
    len(truth.notes),
    protocol.split,
    f"{request.name}: {len(truth.notes):,} {what}, {clips:,} clips",
    scores.report(),
    dict(rows=scores.rows, remarks=scores.remarks) | source,
  )


def _of_embeddings(
  request: Request, protocol: Protocol, e: Embeddings, results: dict[str, float]
) -> Outcome:
  data = e.manifest.get("data")  # another model's manifest may hold anything
  head = f"{request.name}: {len(e.texts):,} texts, {len(e.ids):,} clips"
  lines = ["   ".join(f"{key} {value:.1f}" for key, value in results.items())]
  if protocol.task == "retrieval":
    folds = f" in {protocol.folds} folds" if protocol.folds > 1 else ""
    chance = 100 * protocol.folds / len(e.ids)
    head += f"{folds}, chance R@1 {chance:.2g}, ties {protocol.ties}"
    lines = scoring.table(results)
  source = dict(
    fingerprint=embeddings.fingerprint(e), directory=request.model, manifest=e.manifest
  )
  return Outcome(
    results,
    len(e.ids),
    len(e.texts),
    data.get("split") if isinstance(data, dict) else None,
    head,
    lines,
    dict(
      extras=dataclasses.asdict(request.extras),
      similarity=ranks.SIMILARITY,
      reranking=rescore.MATCHING if request.extras.rerank else "",
      embeddings=source,
    ),
  )


def _write(
  request: Request,
  protocol: Protocol,
  outcome: Outcome,
  add: Callable[[pathlib.Path, str], object] = lambda *_: None,
) -> Mirror:
  """Prints the table, writes results.json and what `add` writes; returns where."""
  clips, texts = outcome.clips, outcome.texts
  differences = protocols.differences(protocol, clips, texts)
  if outcome.split not in (None, protocol.split):
    differences.append(f"split {outcome.split!r}, not {protocol.split!r}")
  print("\n".join(report(request, outcome, differences)), flush=True)
  place = request.place
  out = place.local
  out.mkdir(parents=True, exist_ok=True)
  workdir.write_json(
    out / "results.json",
    dict(
      results=outcome.results,
      protocol=workdir.plain(
        dict(name=request.name, changed=request.changes) | dataclasses.asdict(protocol)
      ),
      clips=clips,
      texts=texts,
      differences=differences,
      **outcome.record,
      evaluated_by=workdir.provenance(),
    ),
  )
  add(out, request.name)
  place.finish()
  print(f"{place.name}/results.json is written", flush=True)
  return place


def report(request: Request, outcome: Outcome, differences: list[str]) -> list[str]:
  """Readable lines: the metrics, and what makes them not comparable."""
  lines = [outcome.head]
  if request.changes:
    changes = ", ".join(f"{key} = {value!r}" for key, value in request.changes.items())
    lines.append(f"  changed: {changes}")
  if differences:
    lines.append(f"  NOT THE PROTOCOL'S DATA: {'; '.join(differences)}")
  return lines + outcome.lines


def _from_flags(values: flags.FlagValues) -> Request:
  return Request(
    name=values.protocol,
    changes=protocols.parse(values.set),
    checkpoint=values.checkpoint,
    embeddings=values.embeddings,
    predictions=values.predictions,
    annotations=values.annotations,
    answers=values.answers,
    data=values.data,
    candidates=values.candidates,
    extras=Extras(values.dual_softmax, values.querybank, values.rerank),
    batch_size=values.batch_size,
    save_embeddings=values.save_embeddings,
    out=values.out,
  )


def _define_flags() -> None:
  string, number = flags.DEFINE_string, flags.DEFINE_float
  string("protocol", "", f"One of {', '.join(protocols.TABLE)}.")
  flags.DEFINE_multi_string("set", [], "field=value of the protocol; may be repeated.")
  string("checkpoint", "", "A run's --workdir; its newest checkpoint is evaluated.")
  string("embeddings", "", "Embeddings of any model instead; see docs/evaluation.md.")
  string("predictions", "", "Answers or moments of any model, a file, instead.")
  string("annotations", "", "Published files that --predictions are scored against.")
  string("answers", "", "JSON list of the texts that predicted numbers mean.")
  string("data", "", "Prepared data, a directory or a name; the run's own if empty.")
  string("candidates", "", "JSON file of a multiple choice; see docs/evaluation.md.")
  number("dual_softmax", 0.0, "Temperature of dual softmax rescoring; 0 = none.")
  number("querybank", 0.0, "Temperature of QB-norm (paper: 0.05); 0 = none.")
  flags.DEFINE_integer("rerank", 0, "Candidates the matching head re-ranks; 0 = none.")
  flags.DEFINE_integer("batch_size", 0, "Clips per batch; the run's if 0.")
  string("save_embeddings", "", "Directory to write the embeddings to.")
  string("out", "", "Directory of results.json; in the model's if empty.")


if __name__ == "__main__":
  _define_flags()
  cli.define_peers()
  cli.run(lambda: (cli.connect(), evaluate(_from_flags(flags.FLAGS))))
