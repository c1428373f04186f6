"""A run's directory: created or reused, and its contents.

config.json, parameters.txt, weights.txt, metrics.jsonl, quarantine.jsonl,
incidents.jsonl, results.json, checkpoints/, damaged/, dumps/, figures/, tensorboard/,
profile/, tokenizer.model, lock
"""

import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Mapping
from typing import Any

from vtr_jax.core import io, paths, precision, renames
from vtr_jax.core.config import flatten
from vtr_jax.core.errors import ConfigError, DataError, printable
from vtr_jax.core.mirror import Mirror
from vtr_jax.train.config import with_defaults

# Keys that do not change the result: a run may be resumed with other values.
FREE_KEYS = (
  "log_every",
  "checkpoint_every",
  "checkpoint_keep",
  "eval_batch_size",
  "data.dir",
  "data.num_workers",
  "data.max_bad_fraction",
  "data.decode_timeout",
  "mesh.",
  "contrastive.form",
  "contrastive.chunk",
  "objective.compute.attention",
  "objective.compute.remat",
  "objective.one_pass",
  "guard.budget",
  "guard.collapse",
  "evals.",
)

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "av")


def prepare(
  place: str | os.PathLike | Mirror, config: Mapping[str, Any]
) -> pathlib.Path:
  """Creates or reuses the directory; stores the config.

  Args:
    place: the directory, or its mirror.
    config: of the run.

  Returns:
    The local directory.

  Raises:
    DataError: it cannot be written.
    ConfigError: it holds a run with another config; lists the differences.
  """
  place = place if isinstance(place, Mirror) else Mirror(place)
  workdir = make(place.local)
  stored = workdir / "config.json"
  current = flatten(upgraded(plain(config)))
  try:
    # Without a checkpoint nothing is lost: a failed start may be replaced.
    has_run = stored.exists() and any(place.checkpoints.glob("[0-9]*"))
    before = flatten(upgraded(io.mapping(stored.read_bytes()))) if has_run else current
    _check_unchanged(place.name, before, current)
    if not has_run or before != current:  # its time stamp is the run's start
      write_json(stored, plain(config))
  except OSError as e:
    raise _unwritable(workdir, e) from e
  except ValueError as e:
    raise DataError(f"{stored}: damaged ({e}); restore or delete it") from e
  return workdir


def make(path: str | os.PathLike) -> pathlib.Path:
  """Creates the directory if it is missing.

  Raises:
    DataError: it cannot be written.
  """
  workdir = pathlib.Path(path)
  try:
    (workdir / "figures").mkdir(parents=True, exist_ok=True)
    (workdir / "lock").touch()
  except OSError as e:
    raise _unwritable(workdir, e) from e
  return workdir


def _unwritable(workdir: pathlib.Path, e: OSError) -> DataError:
  return DataError(
    f"{workdir}: cannot be written ({e.strerror}); choose another --workdir"
  )


def stored_dtype(path: str | os.PathLike) -> str | None:
  """The dtype of activations of the run in a directory; None if that is not known."""
  dtype = _stored_compute(path).get("dtype")
  return dtype if dtype in precision.DTYPES[1:] else None


def stored_scan(path: str | os.PathLike) -> bool | None:
  """Whether the run in a directory stacks its layers; None if that is not known."""
  scan = _stored_compute(path).get("scan")
  return scan if isinstance(scan, bool) else None


def _stored_compute(path: str | os.PathLike) -> dict[str, Any]:
  """Section `objective.compute` of a run; empty if there is none."""
  try:
    values = io.mapping((paths.anywhere(path) / "config.json").read_bytes())
    return dict(renames.upgrade(values)[0]["objective"]["compute"])
  except (OSError, ValueError, KeyError, TypeError, ConfigError):
    return {}  # no run, or one that `prepare` refuses


def upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
  """A run's config with current names, and with keys that are newer than the run."""
  return with_defaults(renames.upgrade(values)[0])


def write_json(path: paths.AnyPath, values: Any) -> None:
  """Writes a JSON file atomically."""
  text = json.dumps(values, indent=1, sort_keys=True) + "\n"
  if paths.is_bucket(path):
    path.write_text(text)
  else:
    io.atomic_write(path, text)


def plain(values: Any) -> Any:
  """Mappings and tuples as dicts and lists, for JSON."""
  if isinstance(values, Mapping):
    return {k: plain(v) for k, v in values.items()}
  if isinstance(values, tuple | list):
    return [plain(v) for v in values]
  return values


def provenance() -> dict[str, Any]:
  """Versions and git revision that produced a result."""
  versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
  revision = _revision(pathlib.Path(__file__))
  return dict(git_revision=revision, python=platform.python_version(), **versions)


@functools.cache  # asked for at every save; what runs was read when it started
def _revision(here: pathlib.Path) -> str:
  """The commit of the package of a file, and whether others differ; or "unknown".

  An installed package may lie in the repository of something else, whose commit says
  nothing.
  """

  def git(*words: str) -> str:
    command = ["git", "-C", str(here.parent), *words]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return run.stdout.strip()

  try:
    git("ls-files", "--error-unmatch", here.name)
    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "HEAD") + (" with local changes" if changed else "")
  except (OSError, subprocess.CalledProcessError):
    return "unknown"


def _check_unchanged(workdir: str, before: dict, current: dict) -> None:
  keys = sorted(set(before) | set(current))
  show = lambda values, key: repr(values.get(key, "absent"))
  changed = [
    f"{printable(key)}: {show(before, key)} there, {show(current, key)} now"
    for key in keys
    if before.get(key) != current.get(key) and not key.startswith(FREE_KEYS)
  ]
  if changed:
    cure = "use another --workdir, or undo"
    if before.get("steps", 0) < current.get("steps", 0):
      cure = f"to train longer, use another --workdir and init_from={workdir}; or undo"
    raise ConfigError(
      f"{workdir}: holds a run with another config; {cure}: {'; '.join(changed)}"
    )
