"""The directory of a data set in preparation, and its lock."""

import contextlib
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

from vtr_jax.core import processes
from vtr_jax.core.config import require
from vtr_jax.core.errors import DataError, printable
from vtr_jax.prepare.shards import read_json, write_json

VERSION = "1.0.0"


class Place:
  """`directory` holds the complete data set, `work` the unfinished one."""

  def __init__(self, out: str, name: str):
    """Raises ConfigError if TFDS would not take `name`."""
    legal = re.fullmatch(r"[a-z][a-z0-9_]*", name)
    require(bool(legal), f"name: {name!r}; use small letters, digits and _")
    self.name = name
    self.root = pathlib.Path(out) / name
    self.directory = self.root / VERSION
    self.work = self.root / f".unfinished-{VERSION}"

  def complete(self) -> bool:
    """Whether the data set exists; it appears in one step.

    Raises:
      DataError: the directory holds something else.
    """
    if self.directory.exists() and not (self.directory / "manifest.json").exists():
      raise DataError(
        f"{self.directory}: not made by prepare; choose another --out or --name"
      )
    return self.directory.exists()

  @contextlib.contextmanager
  def held(self, alone: bool) -> Iterator[None]:
    """Holds the lock, exclusive if `alone`, otherwise shared."""
    self.root.mkdir(parents=True, exist_ok=True)
    with processes.locked(self.root / f".lock-{VERSION}", "run", alone):
      yield

  def start(self, plan: dict[str, Any]) -> None:
    """Writes the plan, or checks that it equals that of an earlier run.

    Raises:
      DataError: other items or options were used.
    """
    path = self.work / "plan.json"
    if not path.exists():
      self.work.mkdir(exist_ok=True)
      write_json(path, plan)
      return
    _check_same(self.work, self.plan(), plan)

  def confirm(self, plan: dict[str, Any]) -> None:
    """Reports that the data set exists.

    Raises:
      DataError: other items or options were used, or the manifest is damaged.
    """
    manifest = read_json(self.directory / "manifest.json")
    _check_same(
      self.directory, manifest, {k: v for k, v in plan.items() if k in manifest}
    )
    print(f"{self.directory}: already exists", file=sys.stderr)

  def plan(self) -> dict[str, Any]:
    """The plan written by `start`.

    Raises:
      DataError: there is no plan, or the file is damaged.
    """
    try:
      return read_json(self.work / "plan.json")
    except FileNotFoundError as e:
      raise DataError(
        f"{self.work}: no unfinished data set; correct --out and --name"
      ) from e


def _check_same(
  place: pathlib.Path, before: dict[str, Any], now: dict[str, Any]
) -> None:
  """Raises DataError if source or options differ from an earlier run's."""
  for key, value in now.items():
    if before.get(key) != value:
      raise DataError(
        f"{place}: was made with another {key} ({_differ(before.get(key), value)}); "
        "use the same, choose another --name, or delete it to start again"
      )


def _differ(before: Any, now: Any) -> str:
  if isinstance(before, dict) and isinstance(now, dict):
    changed = [k for k in before | now if before.get(k) != now.get(k)]
    return "; ".join(
      f"{printable(k)} {before.get(k)!r}, now {now.get(k)!r}" for k in changed
    )
  return f"{before!r}, now {now!r}"
