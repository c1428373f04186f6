"""Public weights in: python -m vtr_jax.convert --from=miles --checkpoint=MILES.pth

Tells what becomes of every key of the file. With --to=DIR it writes a run's directory
that --config.init_from, evaluation, embedding and search take as any other. Without
--config the model has the sizes of the file. Exit code 2: a key is missing, or not
used, and --allow does not name it.
"""

import copy
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import flags
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import config_flags

from vtr_jax.core import cli
from vtr_jax.core.errors import ConfigError, WeightsError


def convert(
  kind: str,
  file: str,
  to: str = "",
  values: Mapping[str, Any] | None = None,
  tokenizer: str = "",
  allow: tuple[str, ...] = (),
) -> None:
  """Prints the report of a file, and writes the run if `to` is given.

  Args:
    kind: one of weights.sources.SOURCES.
    file: safetensors, or a PyTorch file.
    to: directory that is made.
    values: a whole config; None = the kind's recipe with the file's sizes.
    tokenizer: vocabulary file that is copied into the run.
    allow: see weights/match.py.

  Raises:
    WeightsError: the file cannot be read, or does not fit.
    ConfigError: the config is wrong, or `to` holds a run.
  """
  from vtr_jax.core import config
  from vtr_jax.data.tokenizers import base as tokenizers
  from vtr_jax.train import state
  from vtr_jax.train.config import TrainConfig
  from vtr_jax.weights import files, infer, match, registry, stacks

  source = registry.find(kind)
  place = pathlib.Path(to)
  if to and place.exists() and not (place.is_dir() and not any(place.iterdir())):
    raise ConfigError(f"--to: {place} is not empty; choose another directory")
  arrays = files.read(file)
  if values is None:
    values = infer.infer(infer.recipe(source), kind, source, arrays)
    values["name"] = kind
  values = copy.deepcopy(dict(values)) | dict(init_from="", evals={})
  c = config.read(TrainConfig, values)
  objective, spec = c.make_objective(), c.spec()
  wanted = flatten_dict(nn.unbox(state.abstract_params(objective, spec)), sep="/")
  found, report = match.match(
    f"{kind}:{file}",
    kind,
    source,
    arrays,
    objective.model,
    stacks.shapes(wanted),
    allow,
  )
  print(report.text(), end="", flush=True)
  print(_assumed(objective.model.config), flush=True)
  report.check()
  if not to:
    return
  if tokenizer:
    tokenizers.check(tokenizers.load(tokenizer), c.text)
  params = stacks.join(found, wanted)

  @jax.jit
  def fresh(key: jax.Array) -> dict[str, jax.Array]:
    """What the file does not give; nothing else is computed."""
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), spec)
    made = flatten_dict(nn.unbox(objective.init(key, zeros)), sep="/")
    return {path: made[path] for path in wanted if path not in params}

  _write(place, values, params | fresh(jax.random.key(c.seed)), report, tokenizer)


def _write(
  place: pathlib.Path,
  values: Mapping[str, Any],
  params: Mapping[str, Any],
  report: Any,
  tokenizer: str,
) -> None:
  """A run's directory of parameters by path, at once or not at all."""
  from vtr_jax.train import checkpoint, workdir

  made = place.with_name(place.name + ".tmp")
  shutil.rmtree(made, ignore_errors=True)
  workdir.prepare(made, workdir.plain(values))
  saved = checkpoint.Checkpoints(made / "checkpoints", 1)
  tree = unflatten_dict({k: jnp.asarray(v) for k, v in params.items()}, sep="/")
  meta = dict(converted_from=report.summary(), provenance=workdir.provenance())
  saved.save(0, dict(params=tree), meta)
  saved.close()
  (made / "weights.txt").write_text(report.text())
  if tokenizer:
    shutil.copyfile(tokenizer, made / "tokenizer.model")
  else:
    print("no --tokenizer: to read captions, copy one to tokenizer.model there")
  if place.exists():
    place.rmdir()
  made.rename(place)
  print(f"{place} is a run: --config.init_from={place}")


def _assumed(config: Any) -> str:
  """What no file tells, in one line."""
  towers = [n for n in ("video", "text", "encoder", "decoder") if hasattr(config, n)]
  sizes = {name: getattr(config, name) for name in towers}
  heads = ", ".join(f"{n} {s.num_heads}" for n, s in sizes.items() if s)
  arch = getattr(config, "arch", "")
  gelu = f"; GELU {config.parts.kind.gelu} (arch {arch!r})" if arch else ""
  return f"assumed, as no file tells: heads {heads}{gelu}; else give --config"


def main() -> None:
  values = flags.FLAGS
  kind = values["from"].value
  if not kind or not values.checkpoint:
    raise WeightsError("--from and --checkpoint: both are needed")
  chosen = None if CONFIG.value is None else cli.load(CONFIG, "")
  convert(
    kind,
    values.checkpoint,
    values.to,
    chosen,
    values.tokenizer,
    tuple(values.allow),
  )


if __name__ == "__main__":
  flags.DEFINE_string("from", "", "Kind of file: vit, distilbert, miles, clip, ...")
  flags.DEFINE_string("checkpoint", "", "The file: .safetensors, .pth, .pt, .bin.")
  flags.DEFINE_string("to", "", "Directory of the run that is written; empty: none.")
  flags.DEFINE_string("tokenizer", "", "Its vocabulary file, copied into the run.")
  flags.DEFINE_multi_string(
    "allow", [], "Pattern of keys, or of our paths, that may be missing or unused."
  )
  CONFIG = config_flags.DEFINE_config_file("config", None, lock_config=True)
  cli.run(main)
