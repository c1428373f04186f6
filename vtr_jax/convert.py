"""Imports public weights: python -m vtr_jax.convert --from=miles --checkpoint=MILES.pth

--checkpoint is a file, or a folder as a hub stores it: its config.json states the kind
of weights, heads, GELU, epsilon and colours, and it may hold the vocabulary.
Prints how many keys of the file are used or ignored and how many parameters are
initialised at random; --verbose lists them all. With --to=DIR it writes a run, which
--config.init_from, evaluation, embedding and search accept like any other. Without
--config the model has the sizes found in the file. Exit code 2: a key is missing or
unused, and --allow does not name it.
"""

import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from absl import flags
from flax.traverse_util import unflatten_dict
from ml_collections import config_flags

from vtr_jax.core import cli
from vtr_jax.core.config import require
from vtr_jax.core.errors import ConfigError, WeightsError, one_line
from vtr_jax.weights.match import Report


def convert(
  kind: str,
  file: str,
  to: str = "",
  values: Mapping[str, Any] | None = None,
  tokenizer: str = "",
  allow: tuple[str, ...] = (),
  verbose: bool = False,
  heads: Mapping[str, int] | None = None,
  classes: str = "",
) -> None:
  """Prints a report on a file; if `to` is given, writes a run.

  Args:
    kind: one of weights.registry.SOURCES; "" = as the folder's config states.
    file: safetensors, .npz, a PyTorch file, or a folder; see weights/snapshot.py.
    to: the run's directory, which must not exist or be empty.
    values: a complete config; None = the kind's recipe with the file's sizes.
    tokenizer: vocabulary file that is copied into the run; "" = the folder's.
    allow: see weights/match.py.
    verbose: whether to list every key of the file and every initialised parameter.
    heads: tower -> number of attention heads, where no file states it.
    classes: file with the names of a classifier's classes, in the order of its logits.

  Raises:
    WeightsError: the file cannot be read, or does not fit.
    ConfigError: the config is not valid, or `to` is not empty.
  """
  from vtr_jax.data.tokenizers import base as tokenizers
  from vtr_jax.inference import published

  directory = pathlib.Path(to)
  if to and directory.exists() and not _is_empty(directory):
    raise ConfigError(f"--to: {directory} is not empty; choose another directory")
  if classes:
    objective = dict(values["objective"]) if values else {}
    require(
      values is not None and objective.get("name") == "actions",
      "--classes: is for classifiers; name one by --config, as "
      "configs/finetune_actions.py:kinetics400,videomae, or omit it",
    )
    objective["classes"] = _classes(classes)
    count, head = len(objective["classes"]), objective.get("num_classes", 0)
    require(
      head in (0, count),
      f"--classes: {classes} has {count} names, the head {head}; give the file of this "
      "data set",
    )
    values = {**(values or {}), "objective": objective}
  found = published.read(kind, file, values, allow, heads)
  text, report = found.config.text, found.report
  if to and tokenizer:
    tokenizers.check(tokenizers.load(tokenizer, text.t5_rules), text)
  short = f"{report.summary()}\n\n{report.table()}"
  print(report.text() if verbose else short, flush=True)
  warnings = found.check()
  if to:
    if not tokenizer and found.objective.reads_text:
      tokenizer, more = found.tokenizer()
      warnings += more
      if not tokenizer:
        where = directory / "tokenizer.model"
        lacks = f"no --tokenizer: to read captions, copy the vocabulary file to {where}"
        warnings.append(lacks)
    _write(directory, found.values, found.params(), report, tokenizer)
  for warning in warnings:
    print(f"warning: {warning}", flush=True)


def _classes(path: str) -> tuple[str, ...]:
  """Names of the classes: one a line, numbered (as UCF101's classInd.txt) or not.

  Raises:
    ConfigError: the file cannot be read, or has no names.
  """
  try:
    text = pathlib.Path(path).read_text(encoding="utf-8-sig")
  except (OSError, UnicodeDecodeError) as e:
    raise ConfigError(
      f"--classes: {path} cannot be read ({one_line(e)}); name a text file with "
      "one class a line"
    ) from None
  names = [line.strip() for line in text.splitlines() if line.strip()]
  require(len(names) > 0, f"--classes: {path} has no names; write one class a line")
  split = [name.split(maxsplit=1) for name in names]
  first = int(split[0][0]) if split[0][0] in ("0", "1") else -1
  numbers = [str(first + i) for i in range(len(names))]
  numbered = first >= 0 and [pair[0] for pair in split] == numbers
  if numbered and all(len(pair) == 2 for pair in split):
    names = [name for _, name in split]
  return tuple(names)


def _is_empty(directory: pathlib.Path) -> bool:
  return directory.is_dir() and not any(directory.iterdir())


def _write(
  directory: pathlib.Path,
  values: Mapping[str, Any],
  params: Mapping[str, Any],
  report: Report,
  tokenizer: str,
) -> None:
  """Writes a run with parameters by path; complete, or absent."""
  from vtr_jax.train import checkpoint, workdir

  temporary = directory.with_name(directory.name + ".tmp")
  shutil.rmtree(temporary, ignore_errors=True)
  workdir.prepare(temporary, workdir.plain(values))
  checkpoints = checkpoint.Checkpoints(temporary / "checkpoints", 1)
  tree = unflatten_dict({k: jnp.asarray(v) for k, v in params.items()}, sep="/")
  meta = dict(converted_from=report.summary(), provenance=workdir.provenance())
  checkpoints.save(0, dict(params=tree), meta)
  checkpoints.close()
  (temporary / "weights.txt").write_text(report.text())
  if tokenizer:
    shutil.copyfile(tokenizer, temporary / "tokenizer.model")
  if directory.exists():
    directory.rmdir()
  temporary.rename(directory)
  print(f"{directory} is a run: --config.init_from={directory}", flush=True)


def _heads(given: list[str]) -> dict[str, int]:
  """Tower -> number of heads, from "video:12,text:8"."""
  heads = {}
  for part in given:
    tower, _, count = part.partition(":")
    if not count.isdecimal() or int(count) < 1:
      raise ConfigError(f"--heads: {part!r} is not TOWER:NUMBER, as text:12")
    heads[tower] = int(count)
  return heads


def main() -> None:
  values = flags.FLAGS
  kind = values["from"].value
  if not values.checkpoint:
    raise WeightsError("--checkpoint: missing; a file of weights, or its folder")
  config = None if CONFIG.value is None else cli.load(CONFIG, "")
  if config is not None and values.heads:
    raise ConfigError("--heads: the numbers of heads are those of --config; omit it")
  convert(
    kind or "",
    values.checkpoint,
    values.to,
    config,
    values.tokenizer,
    tuple(values.allow),
    values.verbose,
    _heads(values.heads),
    values.classes,
  )


if __name__ == "__main__":
  flags.DEFINE_string(
    "from",
    "",
    "Kind of weights: vit, distilbert, ...; empty: as config.json says.",
  )
  flags.DEFINE_string(
    "checkpoint", "", "File (.safetensors, .npz, .pth, .pt, .bin), or a hub's folder."
  )
  flags.DEFINE_list(
    "heads", [], "Attention heads where no file states them, as video:12,text:8."
  )
  flags.DEFINE_string(
    "classes", "", "File of a classifier's classes, one a line, in its order."
  )
  flags.DEFINE_string("to", "", "Directory of the run to write; empty: report only.")
  flags.DEFINE_string("tokenizer", "", "Vocabulary file, copied into the run.")
  flags.DEFINE_multi_string(
    "allow", [], "Pattern of keys or parameter paths that may be missing or unused."
  )
  flags.DEFINE_bool("verbose", False, "List every key and initialised parameter.")
  CONFIG = config_flags.DEFINE_config_file("config", None, lock_config=True)
  cli.run(main, here=frozenset({"checkpoint"}))
