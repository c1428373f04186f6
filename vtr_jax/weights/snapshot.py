"""A published checkpoint: a file of weights, or a folder as a hub stores it.

A folder holds the weights, in one file or in shards with an index, and what describes
them; see hub_configs.py. A single file is described by the config that lies next to it.
"""

import dataclasses
import pathlib
import re

from vtr_jax.core import io
from vtr_jax.core.errors import WeightsError, one_line
from vtr_jax.core.paths import near
from vtr_jax.weights import files, hub_configs
from vtr_jax.weights.facts import Facts
from vtr_jax.weights.files import Arrays

# By preference; an index lists the shards of one set of weights.
_WEIGHTS = (
  "model.safetensors",
  "model.safetensors.index.json",
  "open_clip_model.safetensors",
  "pytorch_model.bin",
  "pytorch_model.bin.index.json",
  "open_clip_pytorch_model.bin",
)
_ENDINGS = (".safetensors", ".npz", ".pth", ".pt", ".bin", ".ckpt")
_NO_WEIGHTS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")
_VOCABULARIES = (
  "spiece.model",
  "sentencepiece.model",
  "tokenizer.model",
  "vocab.txt",
  "merges.txt",
  "bpe_simple_vocab_16e6.txt.gz",
  "tokenizer.json",
)
# Kinds of the authors' own files, which no config of a hub describes.
_UNDESCRIBED = (
  *("frozen", "miles", "mcq", "simvtp", "simvtp_finetuned", "viclip", "videoprism"),
)
_SHARD = r"-\d{5}-of-(\d{5})\.(safetensors|bin)$"
# Keys of models whose other keys look like those of a kind that is read.
_LOOKALIKES = (
  (
    r"(.*\.)?visual\.attn_pool\.probe",
    "Perception Encoder's: its attention has rotary positions",
  ),
  (
    r"(.*\.)?(vision_encoder\.)?blocks\.\d+\.(ls1\.(gamma|weight)|attn\.q_norm\.weight)",
    "InternVideo2's, or of another model with layer scale or norms of queries",
  ),
)


@dataclasses.dataclass(frozen=True)
class Snapshot:
  """Where the parts of a checkpoint are."""

  files: tuple[pathlib.Path, ...]  # of weights; several = shards
  facts: Facts | None = None  # what its config states
  vocabulary: pathlib.Path | None = None  # for config.tokenizer

  def read(self) -> Arrays:
    """All arrays by key.

    Raises:
      WeightsError: a file cannot be read, two shards have the same key, or the model is
        one that no kind reads.
    """
    arrays: Arrays = {}
    for path in self.files:
      shard = files.read(path)
      if both := sorted(arrays.keys() & shard.keys()):
        raise WeightsError(f"{path}: {both[0]} is in an earlier shard as well")
      arrays |= shard
    for pattern, name in _LOOKALIKES:
      if found := next((key for key in arrays if re.fullmatch(pattern, key)), None):
        raise WeightsError(f"{self.files[0]}: {found} is {name}; not supported")
    return arrays


def find(place: str | pathlib.Path, kind: str = "") -> Snapshot:
  """The parts of a checkpoint.

  Args:
    place: a file of weights; a hub snapshot; or a repository in a hub's cache.
    kind: of the weights, if it is known.

  Raises:
    WeightsError: there is no such place; a folder has no weights, or more than one
      candidate; a shard is missing; or a config is damaged or of a model that is not
      supported.
  """
  place = pathlib.Path(place)
  if not place.exists():
    raise WeightsError(f"{place}: no such file or folder{near(place)}")
  folder = _folder(place)
  described = (None, None) if kind in _UNDESCRIBED else _described(folder)
  if place.is_dir():
    return Snapshot(_weights(folder), *described)
  if found := re.search(_SHARD, place.name):
    raise WeightsError(
      f"{place}: one of {int(found[1])} shards; give the folder, which has the index"
    )
  return Snapshot((place,), *described)


def facts(place: str | pathlib.Path) -> Facts | None:
  """What the config of a folder, or next to a file, states, if there is one."""
  place = pathlib.Path(place)
  return _described(_folder(place))[0] if place.exists() else None


def _folder(place: pathlib.Path) -> pathlib.Path:
  """The folder whose config describes a place."""
  return _transformer(_cached(place)) if place.is_dir() else place.parent


def _described(folder: pathlib.Path) -> tuple[Facts | None, pathlib.Path | None]:
  """(facts, vocabulary) of a folder; a vocabulary only where there are facts."""
  stated = hub_configs.read(folder)
  if stated is None:
    return None, None
  names = (folder / name for name in _VOCABULARIES)
  return stated, next((path for path in names if path.is_file()), None)


def _cached(folder: pathlib.Path) -> pathlib.Path:
  """The snapshot of a folder models--OWNER--NAME of a hub's cache; others as given."""
  try:
    commit = (folder / "refs" / "main").read_text().strip()
  except (OSError, ValueError):
    return folder
  snapshot = folder / "snapshots" / commit
  return snapshot if snapshot.is_dir() else folder


def _transformer(folder: pathlib.Path) -> pathlib.Path:
  """The folder of a sentence encoder's transformer, as "0_Transformer"; or as given."""
  for module in hub_configs.modules(folder / "modules.json"):
    if str(module.get("type")).endswith(".Transformer"):
      return folder / str(module.get("path", ""))
  return folder


def _weights(folder: pathlib.Path) -> tuple[pathlib.Path, ...]:
  for name in _WEIGHTS:
    if (folder / name).is_file():
      path = folder / name
      return _shards(path) if path.suffix == ".json" else (path,)
  others = sorted(
    path
    for path in folder.iterdir()
    if path.suffix in _ENDINGS and path.name not in _NO_WEIGHTS and path.is_file()
  )
  if len(others) == 1:
    return (others[0],)
  if others:
    names = ", ".join(path.name for path in others[:5])
    raise WeightsError(f"{folder}: {len(others)} files of weights ({names}); give one")
  if (folder / "checkpoints").is_dir():
    raise WeightsError(f"{folder}: a run of this project; use it as it is")
  raise WeightsError(
    f"{folder}: no weights in it; {_WEIGHTS[0]} or {_WEIGHTS[3]} is expected (those of "
    "TensorFlow and Flax are not read)"
  )


def _shards(index: pathlib.Path) -> tuple[pathlib.Path, ...]:
  try:
    names = sorted(set(io.mapping(index.read_bytes())["weight_map"].values()))
    paths = tuple(index.parent / pathlib.PurePath(name).name for name in names)
  except (ValueError, KeyError, AttributeError, TypeError, OSError) as e:
    raise WeightsError(f"{index}: damaged ({one_line(e)}); copy it again") from e
  for path in paths:
    if not path.is_file():
      raise WeightsError(f"{path}: missing, but {index.name} lists it; copy it again")
  return paths
