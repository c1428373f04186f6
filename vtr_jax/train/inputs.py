"""What a run reads: its data, its tokenizer, labels, the run that it starts from."""

import collections
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from vtr_jax.core import buckets, io, paths
from vtr_jax.core.config import nearest, read, require
from vtr_jax.core.errors import CheckpointError, ConfigError, DataError
from vtr_jax.core.paths import near
from vtr_jax.data import loader, sources
from vtr_jax.data.embedded import build as embedded
from vtr_jax.data.tokenizers import base as texts
from vtr_jax.objectives import base as objectives
from vtr_jax.train.checkpoint import CheckpointPolicy
from vtr_jax.train.config import TrainConfig
from vtr_jax.weights import snapshot
from vtr_jax.weights.load import pieces
from vtr_jax.weights.registry import SOURCES


def data_directory(config: TrainConfig) -> str:
  """The directory of `config.data.name`; embedded data are generated if missing.

  Raises:
    DataError: there is none.
  """
  try:
    return embedded.find(config.data.dir, config.data.name)
  except DataError as e:
    if embedded.is_embedded(config.data.name):
      raise
    raise DataError(
      f"{e} (the demo, --config=simvtp, generates its own data)"
    ) from None


def from_data(values: dict[str, Any]) -> dict[str, Any]:
  """The config with what the objective takes from the training data, as its classes."""

  def labels(of: Callable[[str, str], list[str]]) -> list[str]:
    config = read(TrainConfig, values)
    data_directory(config)
    return _labels(config, of)

  return values | dict(objective=objectives.from_data(values.get("objective"), labels))


def label_warnings(config: TrainConfig, objective: objectives.Objective) -> list[str]:
  """Warnings of classes without an example, and of examples without a class."""
  if not objective.classes:
    return []
  counts, warnings = collections.Counter(_labels(config, objective.rows.labels)), []
  if empty := [name for name in objective.classes if not counts[name]]:
    more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
    listed = ", ".join(map(repr, empty[:3])) + more
    warnings.append(
      f"config.objective.classes: no training example of {listed}; they are never "
      "learned"
    )
  if left := counts.total() - sum(counts[name] for name in objective.classes):
    warnings.append(
      f"{left:,} training examples have none of config.objective.classes and are left "
      "out"
    )
  return warnings


def few_clips(config: TrainConfig, objective: objectives.Objective) -> list[str]:
  """A warning if the training data are smaller than a batch."""
  data, size = config.data, config.batch_size
  count = len(loader.examples(data, objective.rows)[1])
  if count * data.repeats >= size:
    return []
  why = "clips of a batch are each other's negatives and " if objective.pairs else ""
  return [
    f"{count} clips are fewer than config.batch_size = {size}: {why or 'they '}repeat; "
    "lower it, or add data"
  ]


def check_fingerprint(
  stored: str, current: str, data: str, policy: CheckpointPolicy
) -> list[str]:
  """Raises CheckpointError, or warns, if the data differs from the checkpoint's."""
  if stored == current:
    return []
  text = f"{data}: not the data of the run (fingerprint {current}, was {stored})"
  if policy.allow_data_change:
    return [f"{text}; the order of the records differs from now on"]
  raise CheckpointError(
    f"{text}; restore it, use another --workdir, or add --allow_data_change"
  )


def check_run(directory: str) -> None:
  """Raises CheckpointError if `init_from` is neither a run nor public weights."""
  if not (paths.anywhere(directory) / "config.json").exists():
    kind = directory.partition(":")[0]
    hint = (
      "give the --workdir of a training, or KIND:FILE or a folder of public weights"
    )
    if ":" in directory:
      hint = f"{kind!r} is not a kind of weights, {nearest(kind, SOURCES)}"
    elif not paths.anywhere(directory).exists():
      hint = f"there is no such folder{near(directory)}"
    raise CheckpointError(f"config.init_from: {directory} is not a run; {hint}")


def tokenizer(config: TrainConfig, data: str, path: pathlib.Path) -> texts.Tokenizer:
  """The run's own copy of the tokenizer, which its checkpoints depend on.

  It is `config.tokenizer`, or comes with public weights, or is that of the run of
  `init_from`, or of `data`.

  Raises:
    CheckpointError: `init_from` is neither a run nor public weights.
    ConfigError: there is no tokenizer, or another one than the run's own copy.
  """
  copy = path / "tokenizer.model"
  # Token embeddings are valid only with the tokenizer they were trained with.
  # A run that resumes has its copy: what it started from may be gone.
  public, own = [] if copy.exists() else pieces(config.init_from), ""
  for kind, place in public:
    if SOURCES[kind].words and not config.tokenizer:
      own = str(snapshot.find(place).vocabulary or "")
      require(
        bool(own),
        f"config.tokenizer: missing; give the vocabulary file of the {kind!r} weights, "
        "which their token embeddings depend on",
      )
  run = "" if public else config.init_from
  first = paths.anywhere(run or data) / "tokenizer.model"
  if run and not copy.exists():
    check_run(run)
    require(
      bool(config.tokenizer) or first.exists(),
      f"config.tokenizer: missing, and {run} has none; give its vocabulary file, "
      "or that of the data if token embeddings start at random",
    )
  source = paths.anywhere(config.tokenizer or own or first)
  if copy.exists():  # a run resumes even if the source is gone
    if source.exists() and copy.read_bytes() != source.read_bytes():
      raise ConfigError(f"{copy}: differs from {source}; a run keeps its tokenizer")
    source = copy
  source = buckets.copied(source)
  loaded = texts.load(str(source), config.text.t5_rules)
  texts.check(loaded, config.text)
  if jax.process_index() == 0 and not copy.exists():
    io.atomic_write(copy, source.read_bytes())
  return loaded


def _labels(config: TrainConfig, of: Callable[[str, str], list[str]]) -> list[str]:
  """The class of each training example; empty where there is none."""
  if config.data.mixture:
    parts = [(part.name, part.split) for part in config.data.mixture]
  else:
    parts = [(config.data.name, config.data.split)]
  return [
    label
    for name, split in parts
    for label in of(sources.find(config.data.dir, name), split)
  ]
