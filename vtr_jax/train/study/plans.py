"""The configs of a study's rows."""

import dataclasses
import importlib.util
import pathlib
import types
from collections.abc import Mapping
from typing import Any

import ml_collections

from vtr_jax.core.config import choose, flatten, require
from vtr_jax.train.study.config import Row, StudyConfig, Table


@dataclasses.dataclass(frozen=True)
class Plan:
  """The parts of a row, without steps: one config, or two that follow each other."""

  configs: tuple[dict[str, Any], ...]
  shares: tuple[float, ...]  # of the compute
  file: str  # "configs/mac.py:demo"
  defaults: dict[str, Any]  # the file's own values, by dotted keys


def plan(study: StudyConfig, configs: pathlib.Path, table: Table, row: Row) -> Plan:
  """The parts of a row.

  Raises:
    ConfigError: the config file is missing, or a changed key is unknown.
  """
  source, own = row.config or table.config, {} if row.config else table.changes
  config = _from_file(configs, source, table.title)
  defaults = flatten(config.to_dict())
  for changes in (own, row.changes):
    change(config, changes, f"{table.title}, {row.name}")
  first = config.to_dict()
  name, _, variant = source.partition(":")
  file = f"configs/{name}.py" + (f":{variant}" if variant else "")
  if not row.then:
    return Plan((first,), (1.0,), file, defaults)
  change(config, row.then, f"{table.title}, {row.name}, then")
  share = study.then_share
  return Plan((first, config.to_dict()), (1 - share, share), file, defaults)


def _from_file(configs: pathlib.Path, source: str, where: str) -> Any:
  """The config of a file and variant."""
  file, _, variant = source.partition(":")
  path = configs / f"{file}.py"
  require(path.exists(), f"{where}: config {file!r}: {path} does not exist")
  return _load(path).get_config(*[variant] if variant else [])


def _load(path: pathlib.Path) -> types.ModuleType:
  """The module of a config file."""
  spec = importlib.util.spec_from_file_location(f"study_{path.stem}", path)
  assert spec is not None
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def change(config: Any, changes: Mapping, where: str) -> None:
  """Changes values of a ConfigDict, nested; raises ConfigError for an unknown key."""
  for key, value in changes.items():
    if not where.endswith(".loss_weights"):  # may add a term, which training checks
      choose(key, config, where)
    if isinstance(value, Mapping) and isinstance(
      config[key], ml_collections.ConfigDict
    ):
      change(config[key], value, f"{where}.{key}")
    else:
      with config.ignore_type():
        config[key] = value
