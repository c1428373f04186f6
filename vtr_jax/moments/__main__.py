"""Finds the moments that sentences describe, and scores them.

  python -m vtr_jax.moments --checkpoint=runs/mine
  python -m vtr_jax.moments --checkpoint=runs/mine --kind=head
  ... --data=data/charades_sta --protocol=charades_sta --lengths=4,8,12,16 --step=2

zero_shot: windows of several lengths, ranked by their cosine with the query. head: a
small network on these scores, trained on the split `train` in minutes.
Prints the protocol's table and writes predictions.jsonl, in QVHighlights' layout with a
score of each clip of two seconds, which `evaluate --predictions` reads, results.json
and the head to --out. Features are cached next to it. One process, with all of its
devices.
"""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import flags
from jaxtyping import Float

from vtr_jax.core import buckets, cli, io
from vtr_jax.core.config import choose, require
from vtr_jax.core.errors import DataError
from vtr_jax.core.mirror import Mirror
from vtr_jax.data import notes, sources
from vtr_jax.data.embedded import build as embedded
from vtr_jax.data.embedded import long
from vtr_jax.data.notes import Note
from vtr_jax.eval import noted_moments, protocols
from vtr_jax.eval.noted import Truth
from vtr_jax.eval.predictions import Moments
from vtr_jax.eval.protocols import Protocol
from vtr_jax.inference.load import load
from vtr_jax.inference.model import LoadedModel
from vtr_jax.moments import features, head, zero_shot
from vtr_jax.moments.features import Features
from vtr_jax.moments.grid import Grid
from vtr_jax.prepare import truth as truths
from vtr_jax.train import workdir

KINDS = ("zero_shot", "head")
TRAIN = "train"
# Of a video and its queries: windows [q w 2], in seconds, and their scores [q w].
Scored = tuple[Float[np.ndarray, "q w 2"], Float[np.ndarray, "q w"]]
Method = Callable[[Features, Float[np.ndarray, "q e"]], Scored]


@dataclasses.dataclass(frozen=True)
class Request:
  """What to find, and how; the command's flags."""

  checkpoint: str  # directory of a run
  kind: str = "zero_shot"  # zero_shot | head
  data: str = f"{long.NAME}/full"  # prepared data: a directory, or a name in the run's
  protocol: str = long.NAME  # of task moments
  changes: dict[str, Any] = dataclasses.field(default_factory=dict)  # of its fields
  grid: Grid = Grid()  # noqa: RUF009
  lr: float = 0.0  # of the head; 0 = the recipe's
  epochs: int = 0  # 0 = the recipe's
  out: str = ""  # output directory; "" = moments/<kind> in the run's

  def __post_init__(self):
    require(bool(self.checkpoint), "--checkpoint: missing; the --workdir of a training")
    choose(self.kind, KINDS, "--kind")
    require(self.lr >= 0, f"--lr: {self.lr} is negative")
    require(self.epochs >= 0, f"--epochs: {self.epochs} is negative")

  @property
  def recipe(self) -> head.Recipe:
    """The head's recipe with the flags' changes."""
    default = head.Recipe()
    lr, epochs = self.lr or default.lr, self.epochs or default.epochs
    return dataclasses.replace(default, lr=lr, epochs=epochs)


def moments(request: Request) -> dict[str, float]:
  """Finds, scores, prints and writes; returns the metrics.

  Raises:
    VtrError: one line that says what to fix; see errors.py.
  """
  protocol = protocols.get(request.protocol, request.changes)
  require(
    protocol.task == "moments",
    f"--protocol: {request.protocol} is of task {protocol.task!r}, not moments",
  )
  model = load(request.checkpoint)
  directory = embedded.find(model.config.data.dir, sources.named(request.data))
  truth = truths.read(protocol, directory)
  place = Mirror(
    request.out or f"{request.checkpoint.rstrip('/')}/moments/{request.kind}",
    fresh=True,
  )
  cache = place.local.parent / "features"
  if place.remote:
    cache = buckets.scratch(place.name, "features")

  def of_split(split: str) -> dict[str, Features]:
    opened = sources.open_split(directory, split)
    found = features.of_split(model, opened, request.grid, cache)
    return dict(zip(sources.ids(directory)[split], found, strict=True))

  place.local.mkdir(parents=True, exist_ok=True)
  inputs = _inputs(request, model, directory)
  method: Method = _zero_shot
  if request.kind == "head":
    train = of_split(TRAIN)
    trained = _train(request, model, directory, protocol, train)
    trained.save(place.local, inputs)
    method = trained.windows
  tested = of_split(protocol.split)
  if absent := set(truth.records) - set(tested):
    raise DataError(
      f"{directory}: split {protocol.split!r} has no record {min(absent)!r}, of which "
      "there are moments; prepare it"
    )
  text = model.embed_text([note.text for note in truth.notes])
  found = _found(method, tested, truth.records, truth.notes, text)
  path = place.local / "predictions.jsonl"
  _write_predictions(path, found, truth)
  others = {
    "random window": _found(_random, tested, truth.records, truth.notes, text),
    "another query": _found(
      method, tested, truth.records, truth.notes, _others(text, truth.records)
    ),
  }
  scores = noted_moments.score(str(path), protocol, truth, others)
  clips, queries = len(set(truth.records)), len(truth.notes)
  lines = [f"{request.protocol}, {request.kind}: {queries:,} queries, {clips:,} videos"]
  if differences := protocols.differences(protocol, clips, queries):
    lines.append(f"  NOT THE PROTOCOL'S DATA: {'; '.join(differences)}")
  print("\n".join([*lines, *scores.report()]), flush=True)
  values = dict(results=scores.results(), rows=scores.rows, remarks=scores.remarks)
  values |= dict(differences=differences, protocol=dataclasses.asdict(protocol))
  values |= inputs | dict(provenance=workdir.provenance())
  workdir.write_json(place.local / "results.json", values)
  place.finish()
  print(f"predictions.jsonl and results.json are in {place.name}", flush=True)
  return scores.results()


def _train(
  request: Request,
  model: LoadedModel,
  directory: str,
  protocol: Protocol,
  train: dict[str, Features],
) -> head.Trained:
  """The head, trained on the training split's moments of the protocol's types."""
  every = notes.read(directory, TRAIN, "moment", name=protocol.notes)
  types = protocol.types
  asked = [[n for n in own if not types or n.type in types] for own in every]
  if not any(asked):
    of = f" of types {', '.join(types)}" if types else ""
    raise DataError(
      f"{directory}: split {TRAIN!r} has no moments{of} to train a head on"
    )
  sizes = [len(own) for own in asked]
  flat = model.embed_text([note.text for own in asked for note in own])
  texts = np.split(flat, np.cumsum(sizes)[:-1])
  values = list(train.values())
  return head.fit(request.recipe, request.grid, values, texts, asked)


def _found(
  method: Method,
  videos: dict[str, Features],
  records: Sequence[str],
  queries: Sequence[Note],
  text: Float[np.ndarray, "q e"],
) -> Moments:
  """The best windows of each query, inside its video, and the scores of clips."""
  windows: list[list[list[float]]] = [[] for _ in queries]
  saliency: list[list[float]] = [[] for _ in queries]
  own: dict[str, list[int]] = {}
  for row, record in enumerate(records):
    own.setdefault(record, []).append(row)
  for record, rows in own.items():
    f = videos[record]
    # An annotated duration may be shorter than the file's, or unknown: 0.
    limits = [queries[row].duration or float(f.times.max()) for row in rows]
    scored = method(f, text[rows])
    for row, limit, times, score in zip(rows, limits, *scored, strict=True):
      best = zero_shot.ranked(times, score)
      # As they are written: rounding may empty a window.
      cut = ([round(x, 4) for x in (a, min(b, limit), value)] for a, b, value in best)
      windows[row] = [window for window in cut if window[0] < window[1]]
      saliency[row] = zero_shot.saliency(limit, times, score).tolist()
  return Moments(windows, saliency, 0)


def _zero_shot(f: Features, text: Float[np.ndarray, "q e"]) -> Scored:
  return _of_grid(f, zero_shot.scores(f.vectors, text))


def _random(f: Features, text: Float[np.ndarray, "q e"]) -> Scored:
  """Windows of the grid in an order of chance, which differs between videos."""
  seed = round(1000 * float(f.times.max()))
  return _of_grid(f, np.random.default_rng(seed).random((len(text), len(f.times))))


def _of_grid(f: Features, score: Float[np.ndarray, "q w"]) -> Scored:
  """The windows of the grid for each query."""
  return np.broadcast_to(f.times, (*score.shape, 2)), score


def _others(
  text: Float[np.ndarray, "q e"], records: Sequence[str]
) -> Float[np.ndarray, "q e"]:
  """For each query one of another video; the same where there is only one video."""
  shift, rows = max(collections.Counter(records).values()), len(records)
  order = []
  for row, record in enumerate(records):
    steps = (other % rows for other in range(row - shift, row - shift - rows, -1))
    order.append(next((other for other in steps if records[other] != record), row))
  return text[order]


def _write_predictions(path: pathlib.Path, found: Moments, truth: Truth) -> None:
  """A line for each query, in QVHighlights' layout."""
  assert found.saliency is not None
  lines = [
    json.dumps(
      dict(
        qid=note.id,
        query=note.text,
        vid=record,
        pred_relevant_windows=windows,
        pred_saliency_scores=[round(x, 6) for x in clips],
      ),
      ensure_ascii=False,
    )
    for windows, clips, record, note in zip(
      found.windows, found.saliency, truth.records, truth.notes, strict=True
    )
  ]
  io.atomic_write(path, "".join(f"{line}\n" for line in lines))


def _inputs(request: Request, model: LoadedModel, directory: str) -> dict[str, Any]:
  """Model, data and features, for results.json and head.json."""
  c = model.config
  return dict(
    kind=request.kind,
    model=dict(run=c.name, step=model.step, objective=c.objective["name"]),
    data=dict(directory=directory, protocol=request.protocol, changes=request.changes),
    features=dataclasses.asdict(request.grid)
    | dict(frames=c.clip.num_frames, size=c.clip.image_size),
  )


def _from_flags(values: flags.FlagValues) -> Request:
  try:
    lengths = tuple(float(x) for x in values.lengths)
  except ValueError:
    lengths = ()
  require(bool(lengths), f"--lengths: {values.lengths}; give seconds, as 1,2,4")
  return Request(
    checkpoint=values.checkpoint,
    kind=values.kind,
    data=values.data,
    protocol=values.protocol,
    changes=protocols.parse(values.set),
    grid=Grid(lengths, values.step),
    lr=values.lr,
    epochs=values.epochs,
    out=values.out,
  )


def _define_flags() -> None:
  string, number, own = flags.DEFINE_string, flags.DEFINE_float, Grid()
  string("checkpoint", "", "A run's --workdir; its newest checkpoint is used.")
  string("kind", "zero_shot", f"One of {', '.join(KINDS)}.")
  string("data", f"{long.NAME}/full", "Prepared data, a directory or a name.")
  string("protocol", long.NAME, "A protocol of task moments.")
  flags.DEFINE_multi_string("set", [], "field=value of the protocol; may be repeated.")
  lengths = [f"{length:g}" for length in own.lengths]
  flags.DEFINE_list("lengths", lengths, "Seconds of the windows, ascending.")
  number("step", own.step, "Seconds from one window to the next.")
  number("lr", 0.0, "Peak learning rate of the head; the recipe's if 0.")
  flags.DEFINE_integer("epochs", 0, "Of the head; the recipe's if 0.")
  string("out", "", "Output directory; moments/<kind> in the run's if empty.")


if __name__ == "__main__":
  _define_flags()
  cli.run(lambda: moments(_from_flags(flags.FLAGS)))
