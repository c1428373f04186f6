"""Predicts what is in videos: classes, scores of texts, answers, or embeddings.

  python -m vtr_jax.predict --checkpoint=runs/actions clip.mp4 folder
  ... --windows=5 --crops=3 --top=3 --out=classes.csv       the mean of 15 views
  ... --texts="a dog runs" --texts="a cat sleeps"           or --texts_file=FILE
  ... --question="what does the man do"             a run of objective `answers`
  ... --what=embeddings --slices=10 --out=embeddings.npz    of ten parts of each video

Prints readable lines, or writes --out (.csv, .jsonl, .parquet or .npz). Classes need a
run of the objective `actions`, answers one of `answers`, and texts one that embeds
texts. A run that chooses among options takes them as --texts. Files that cannot be read
are listed and skipped. One process, with all of its devices.
"""

import dataclasses
import functools
import itertools
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from absl import flags
from jaxtyping import Float, UInt8

from vtr_jax.core import cli
from vtr_jax.core.config import choose, require
from vtr_jax.core.errors import DataError, NotFiniteError, printable
from vtr_jax.core.paths import local
from vtr_jax.core.progress import Bar
from vtr_jax.data import captions
from vtr_jax.data import views as views_lib
from vtr_jax.data.captions import blank
from vtr_jax.data.views import Views
from vtr_jax.eval import ranks
from vtr_jax.inference import table, windows
from vtr_jax.inference.load import load
from vtr_jax.inference.model import LoadedModel, parallel_map
from vtr_jax.search import files

_NEEDS = dict(
  embeddings=("embed_video",),
  texts=("embed_video", "embed_text"),
  answers=("answers",),
)


@dataclasses.dataclass(frozen=True)
class Request:
  """What to predict, of which files; the command's flags."""

  checkpoint: str  # directory of a run
  videos: tuple[str, ...]  # files, and folders with their subfolders
  what: str = "classes"  # classes | embeddings; `texts` go first
  texts: tuple[str, ...] = ()  # to score; with a question, its options
  question: str = ""  # to answer
  top: int = 5  # classes or texts of each file, best first; 0 = all
  windows: int = 1  # clips along time whose probabilities are averaged
  crops: int = 1  # of each, in space
  slices: int = 0  # parts of each video, with a row each; 0 = one row, without times
  out: str = ""  # file; "" = print

  def __post_init__(self):
    require(bool(self.checkpoint), "--checkpoint: missing; the --workdir of a training")
    require(len(self.videos) > 0, "VIDEOS: missing; name video files or folders")
    choose(self.what, ("classes", "embeddings"), "--what")
    require(
      not (self.texts or self.question) or self.what == "classes",
      "--texts, --question: are scored, not embedded; omit them or --what",
    )
    require(
      not self.question or not blank(self.question), "--question: is blank; ask one"
    )
    for name, least in (("top", 0), ("slices", 0), ("windows", 1), ("crops", 1)):
      value = getattr(self, name)
      require(value >= least, f"--{name}: {value}; must be {least} or more")
    require(
      self.views == 1 or (self.kind == "classes" and not self.slices),
      "--windows, --crops: are for classes of full videos, without --slices; use 1",
    )
    require(
      self.kind != "embeddings" or bool(self.out),
      "--out: missing; name the file of the embeddings, as embeddings.npz",
    )
    if self.out:
      table.check(self.out)

  @property
  def kind(self) -> str:
    """What a row has: classes | embeddings | texts | answers."""
    if self.question:
      return "answers"
    return "texts" if self.texts else self.what

  @property
  def views(self) -> int:
    """Clips per row."""
    return self.windows * self.crops


class Prediction(NamedTuple):
  """Rows, best first for each file or slice, and what is missing.

  columns: path; start and end (seconds, if there are slices); class and probability, or
  text and score (cosine), or answer and probability (of a count: the number before
  rounding), or embedding (unit norm). unreadable: (path, reason); a
  damaged file may be listed here and still have rows.
  """

  columns: dict[str, np.ndarray]
  unreadable: list[tuple[str, str]]


class _Row(NamedTuple):
  """A file or a part of it: times in seconds, and clips as the model's input."""

  start: float
  end: float
  clips: Sequence[UInt8[np.ndarray, "t s s 3"]]


def predict(request: Request) -> Prediction:
  """Reads the files, and predicts.

  Raises:
    ConfigError: the run does not predict what is asked for.
    DataError: no file can be read, or a folder has no video or image.
    CheckpointError: see `inference.load.load`.
  """
  paths, unreadable = _find(request.videos)
  model = load(request.checkpoint, text=bool(request.texts or request.question))
  _check(request, model)
  if request.out:
    pathlib.Path(request.out).parent.mkdir(parents=True, exist_ok=True)
  scored = request.kind == "texts"
  texts = model.embed_text(request.texts) if scored else None
  owners: list[tuple[str, float, float]] = []

  def clips() -> Iterator[np.ndarray]:
    found = parallel_map(functools.partial(_read, request, model), zip(paths))
    bar = Bar(found, "reading videos", len(paths), unit="video")
    for path, (rows, problem) in zip(paths, bar, strict=True):
      if problem:
        unreadable.append((path, problem))
      for row in rows:
        owners.append((path, row.start, row.end))
        yield from row.clips

  values = _FUNCTIONS[request.kind](model, request, clips())
  if not owners:
    _list(unreadable)
    raise DataError(
      f"none of {len(unreadable)} files can be read; give videos or images"
    )
  if not np.isfinite(values).all():
    raise NotFiniteError(
      f"{model.name}: its predictions are not finite; give another --checkpoint"
    )
  grouped = values.reshape(len(owners), request.views, -1)
  values = grouped.mean(axis=1, dtype=np.float64).astype(np.float32)
  if texts is not None:
    values = ranks.cosines(texts, values).T
  return Prediction(_columns(request, model, owners, values), unreadable)


def _answers(
  model: LoadedModel, request: Request, clips: Iterator[np.ndarray]
) -> np.ndarray:
  """Probabilities of the answers or options; counts."""
  scores = model.answer_scores((c, request.question, request.texts) for c in clips)
  if model.questions.form == "count":
    return scores
  odds = np.exp(scores - scores.max(axis=1, keepdims=True))
  return odds / odds.sum(axis=1, keepdims=True)


_FUNCTIONS = dict(
  classes=lambda model, _, clips: model.classify_clips(clips),
  embeddings=lambda model, _, clips: model.embed_clips(clips),
  texts=lambda model, _, clips: model.embed_clips(clips),
  answers=_answers,
)


def _find(videos: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
  """(files, once each; (path, reason) of those left out)."""
  paths, left_out = [], []
  for name in (local(name, "VIDEOS") for name in videos):
    if os.path.isdir(name):
      entries, others = files.walk(name)
      paths += [os.path.join(name, entry.path) for entry in entries]
      left_out += [(os.path.join(name, other), reason) for other, reason in others]
    elif os.path.exists(name) and not os.path.isfile(name):
      left_out.append((name, "not a file"))  # a pipe, say, which would block
    else:
      paths.append(name)
  return list(dict.fromkeys(paths)), left_out


def _check(request: Request, model: LoadedModel) -> None:
  if request.kind == "classes":
    predicted = model.objective.predict
    cures = dict(
      answers="--question", embed_text="--texts", embed_video="--what=embeddings"
    )
    cure = " or ".join(flag for name, flag in cures.items() if name in predicted)
    require(
      "logits" in predicted,
      f"--checkpoint: this run predicts no classes ({', '.join(sorted(predicted))}); "
      f"give {cure or 'another run'}",
    )
    return
  cure = "; give another run"
  if request.kind == "answers":
    cure = "; fine-tune it by configs/finetune_answers.py"
  for name in _NEEDS[request.kind]:
    model.objective.prediction(name, f"--checkpoint: for {request.kind}", cure)
  if request.kind != "answers":
    return
  rows = model.questions
  options, expected = len(request.texts), rows.options * (rows.form == "choice")
  require(
    options == expected,
    f"--texts: {options} options of the question, but this run "
    + (f"chooses among {expected}" if expected else "takes none; omit them"),
  )
  captions.check(
    model.tokenizer, [request.question], "--question", lambda _: "the question"
  )


def _read(request: Request, model: LoadedModel, path: str) -> tuple[list[_Row], str]:
  """(rows of a file, why it, or the rest of it, cannot be read); thread-safe."""
  c = model.config
  try:
    if request.views == 1:
      parts, problem = windows.slices(path, max(request.slices, 1), model)
      return [_Row(part.start, part.end, [part.frames]) for part in parts], problem
    data, size = c.data, c.clip.image_size
    views = Views(
      c.clip.num_frames, data.sampling, data.stride, request.windows, request.crops
    )
    video = pathlib.Path(path).read_bytes()
    firsts = range(0, len(views), views.crops)
    damage: list[str] = []
    found = [
      views_lib.crops(video, first, views, data, size, damage) for first in firsts
    ]
    rows = [_Row(0.0, 0.0, list(itertools.chain.from_iterable(found)))]
    return rows, damage[0] if damage else ""
  except Exception as e:  # one unusual file among many must not end the run
    return [], files.reason(e)


def _columns(
  request: Request,
  model: LoadedModel,
  owners: list[tuple[str, float, float]],
  values: Float[np.ndarray, "r n"],
) -> dict[str, np.ndarray]:
  """See Prediction."""
  paths, start, end = map(np.array, zip(*owners, strict=True))
  columns = dict(path=paths)
  if request.slices:
    columns |= dict(start=start, end=end)
  if request.kind == "embeddings":
    return columns | dict(embedding=values)
  kind = request.kind
  if kind == "answers" and model.questions.form == "count":
    counts = model.questions.answers(values, ())
    return columns | dict(answer=np.array(counts), number=values[:, 0])
  own = dict(texts=request.texts, answers=request.texts or model.objective.classes)
  names = np.array(own[kind] if kind in own else model.classes)  # noqa: SIM401 (raises)
  best = np.argsort(-values, axis=1, kind="stable")[:, : request.top or None]
  columns = {k: np.repeat(v, best.shape[1]) for k, v in columns.items()}
  columns[dict(texts="text", answers="answer").get(kind, "class")] = names[
    best.reshape(-1)
  ]
  measure = np.take_along_axis(values, best, axis=1).reshape(-1)
  return columns | {"score" if kind == "texts" else "probability": measure}


def report(columns: dict[str, np.ndarray]) -> Iterator[str]:
  """Readable lines: each file or slice, then its classes, texts or answers."""
  before = ()
  for row in zip(*columns.values(), strict=True):
    *owner, name, value = row
    if owner != before:
      times = f"  {owner[1]:.2f}-{owner[2]:.2f} s" if len(owner) > 1 else ""
      yield f"{printable(owner[0])}{times}"
    share = "probability" in columns
    shown = f"{100 * value:5.1f} %" if share else f"{value:7.3f}"
    yield f"  {shown}  {printable(str(name))}"
    before = owner


def main(request: Request) -> None:
  """Predicts, and prints or writes the result."""
  columns, unreadable = predict(request)
  _list(unreadable)
  if request.out:
    table.write(request.out, columns)
  else:
    print("\n".join(report(columns)), flush=True)
  read = len(dict.fromkeys(columns["path"].tolist()))
  where = f"; {len(columns['path'])} rows are in {request.out}" if request.out else ""
  print(f"{read} files read, {len(unreadable)} unreadable{where}", file=sys.stderr)


def _list(unreadable: list[tuple[str, str]]) -> None:
  for line in files.told(unreadable):
    print(line, file=sys.stderr)


def _texts(given: list[str], path: str) -> tuple[str, ...]:
  """Texts of the flags: --texts, then the lines of --texts_file; once each."""
  lines = []
  if path:
    try:
      lines = pathlib.Path(path).read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as e:
      raise DataError(f"{path}: not UTF-8 text; save it as such") from e
  texts = [text.strip() for text in [*given, *lines]]
  texts = tuple(dict.fromkeys(text for text in texts if not blank(text)))
  empty = (given or path) and not texts
  require(not empty, f"{path or '--texts'}: no text; give one per line or flag")
  return texts


def _from_flags(values: flags.FlagValues, videos: tuple[str, ...]) -> Request:
  names = [field.name for field in dataclasses.fields(Request)]
  plain = {n: getattr(values, n) for n in names if n not in ("videos", "texts")}
  texts = _texts(values.texts, values.texts_file)
  return Request(videos=videos, texts=texts, **plain)


def _define_flags() -> None:
  string, integer = flags.DEFINE_string, flags.DEFINE_integer
  string("checkpoint", "", "A run's --workdir; its newest checkpoint is used.")
  string("what", "classes", "classes, or embeddings.")
  flags.DEFINE_multi_string("texts", [], "Text to score; may be repeated.")
  string("question", "", "Question to answer about each file.")
  string("texts_file", "", "File of texts to score, one per line.")
  integer("top", 5, "Number of classes or texts of each file, best first; 0 = all.")
  integer("windows", 1, "Clips along time whose probabilities are averaged.")
  integer("crops", 1, "Crops of each window.")
  integer("slices", 0, "Parts of equal length of each video, with a row each.")
  string("out", "", "File to write: .csv, .jsonl, .parquet or .npz; print if empty.")


if __name__ == "__main__":
  _define_flags()
  cli.run(
    lambda *videos: main(_from_flags(flags.FLAGS, videos)),
    arguments=True,
    here=frozenset({"out"}),
  )
