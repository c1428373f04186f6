"""Evaluates, by one of scores/protocols.py, a run or the embeddings of any model.

  python -m vtr_jax.evaluate --checkpoint=runs/mine --data=msvd --protocol=msvd
  python -m vtr_jax.evaluate --embeddings=DIR --protocol=msrvtt_1ka
  ... --set=captions=first --set=ties=optimistic     other fields; told with the numbers
  ... --dual_softmax=0.05 --querybank=0.05 --rerank=20         labelled rows beside
  ... --save_embeddings=DIR                          layout: docs/evaluation.md

Prints a table and writes results.json, with what every number means, into --out.
"""

import dataclasses
import pathlib
from typing import Any

import jax
from absl import flags

from vtr_jax.core import cli
from vtr_jax.core.config import require
from vtr_jax.core.errors import ConfigError
from vtr_jax.eval import embeddings, protocols, scoring
from vtr_jax.eval.embeddings import Embeddings
from vtr_jax.eval.protocols import Protocol
from vtr_jax.eval.scoring import Extras
from vtr_jax.inference import embed_split
from vtr_jax.train import workdir


@dataclasses.dataclass(frozen=True)
class Request:
  """What is evaluated, and how."""

  name: str  # of the protocol
  changes: dict[str, Any]  # of its fields
  checkpoint: str = ""  # directory of a run; this or `embeddings`
  embeddings: str = ""  # directory; see scores/embeddings.py
  data: str = ""  # prepared data: a directory, or a name in the run's; "" = the run's
  candidates: str = ""  # JSON file of a multiple choice
  extras: Extras = dataclasses.field(default_factory=Extras)
  batch_size: int = 0  # clips at once; 0 = the run's eval_batch_size
  save_embeddings: str = ""  # directory to write; "" = none
  out: str = ""  # directory of results.json; "" = beside the model

  def __post_init__(self):
    one = bool(self.checkpoint) != bool(self.embeddings)
    require(one, "--checkpoint, --embeddings: give one of them")
    if self.embeddings:
      for flag in ("data", "candidates", "batch_size", "save_embeddings"):
        given = getattr(self, flag)
        require(not given, f"--{flag}: {given} is for --checkpoint; leave it out")
      for name in protocols.OF_EMBEDDING:
        given = name in self.changes
        require(not given, f"--set={name}: is for --checkpoint; leave it out")
      require(not self.extras.rerank, "--rerank: embeddings have no matching head")


def evaluate(request: Request) -> dict[str, float]:
  """Embeds where that is needed, scores, prints, writes; returns the numbers.

  Raises:
    VtrError: with one line that says what to fix; see errors.py.
  """
  protocol, match = protocols.get(request.name, request.changes), None
  if protocol.task != "retrieval" and request.extras != Extras():
    raise ConfigError(f"extra rows: are for retrieval, not for {protocol.task}")
  if request.save_embeddings:
    embeddings.check_vacant(request.save_embeddings)
  if request.embeddings:
    found = embeddings.load(request.embeddings)
    if protocol.task == "retrieval":
      found = scoring.queries(found, protocol.captions)
  else:
    found, match = embed_split.embed(
      request.checkpoint,
      protocol,
      data=request.data,
      candidates=request.candidates,
      batch_size=request.batch_size,
      extras=request.extras,
    )
  numbers = scoring.score(found, protocol, request.extras, match)
  if jax.process_index() == 0:
    _tell(request, protocol, found, numbers)
    if request.save_embeddings:
      embeddings.save(request.save_embeddings, found)
  return numbers


def _tell(
  request: Request, protocol: Protocol, e: Embeddings, numbers: dict[str, float]
) -> None:
  """The table, and results.json."""
  clips, texts = len(e.ids), len(e.texts)
  different = protocols.differences(protocol, clips, texts)
  data = e.manifest.get("data")  # another model's may be anything
  split = data.get("split") if isinstance(data, dict) else None
  if split not in (None, protocol.split):
    different.append(f"split {split!r}, not {protocol.split!r}")
  print("\n".join(report(request, protocol, e, numbers, different)), flush=True)
  model = request.checkpoint or request.embeddings
  out = pathlib.Path(request.out or pathlib.Path(model) / "evaluations" / request.name)
  out.mkdir(parents=True, exist_ok=True)
  workdir.write_json(
    out / "results.json",
    dict(
      results=numbers,
      protocol=workdir.plain(
        dict(name=request.name, changed=request.changes) | dataclasses.asdict(protocol)
      ),
      clips=clips,
      texts=texts,
      differences=different,
      extras=dataclasses.asdict(request.extras),
      similarity="cosine, products in float64, rounded to float32",
      embeddings=dict(
        fingerprint=embeddings.fingerprint(e), directory=model, manifest=e.manifest
      ),
      evaluated_by=workdir.provenance(),
    ),
  )
  print(f"{out / 'results.json'} is written", flush=True)


def report(
  request: Request,
  protocol: Protocol,
  e: Embeddings,
  numbers: dict[str, float],
  different: list[str],
) -> list[str]:
  """The numbers as lines for people, with what makes them incomparable."""
  clips, texts = len(e.ids), len(e.texts)
  head = f"{request.name}: {texts:,} texts, {clips:,} clips"
  if protocol.task == "retrieval":
    parts = f" in {protocol.folds} folds" if protocol.folds > 1 else ""
    chance = 100 * protocol.folds / clips
    head += f"{parts}, chance R@1 {chance:.2g}, ties {protocol.ties}"
  lines = [head]
  if request.changes:
    told = ", ".join(f"{key} = {value!r}" for key, value in request.changes.items())
    lines.append(f"  changed: {told}")
  if different:
    lines.append(f"  NOT THE PROTOCOL'S DATA: {'; '.join(different)}")
  if protocol.task == "retrieval":
    return lines + scoring.table(numbers)
  return [*lines, "   ".join(f"{key} {value:.1f}" for key, value in numbers.items())]


def _from_flags(values: flags.FlagValues) -> Request:
  return Request(
    name=values.protocol,
    changes=protocols.parse(values.set),
    checkpoint=values.checkpoint,
    embeddings=values.embeddings,
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
  string("data", "", "Prepared data, a directory or a name; the run's own if empty.")
  string("candidates", "", "JSON file of a multiple choice; see docs/evaluation.md.")
  number("dual_softmax", 0.0, "Temperature of that extra row; 0 = none.")
  number("querybank", 0.0, "Temperature of the QB-norm row (paper: 0.05); 0 = none.")
  flags.DEFINE_integer("rerank", 0, "Candidates the matching head re-orders; 0 = none.")
  flags.DEFINE_integer("batch_size", 0, "Clips at once; the run's if 0.")
  string("save_embeddings", "", "Directory to write the embeddings to.")
  string("out", "", "Directory of results.json; beside the model if empty.")


if __name__ == "__main__":
  _define_flags()
  cli.define_peers()
  cli.run(lambda: (cli.connect(), evaluate(_from_flags(flags.FLAGS))))
