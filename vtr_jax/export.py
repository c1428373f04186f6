"""Exports a run: python -m vtr_jax.export --checkpoint=RUN --to=FILE.safetensors

--as selects the layout of the weights: vtr_jax (this package's names), or that of a
public code, such as frozen, miles, videomae, hf_videomae, timm_vit or hf_clip, which
loads it completely. VideoPrism's layouts are .npz files. With --to=FOLDER, the folder
has what a hub stores next to weights: the layouts of transformers, and vtr_jax.

--as=stablehlo --to=FOLDER writes functions instead, with which JAX alone embeds videos
and texts; with --params_inside, each is one file. See docs/weights.md.
"""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Iterator

import jax
import numpy as np
from absl import flags
from flax.traverse_util import flatten_dict

from vtr_jax.core import buckets, cli, paths
from vtr_jax.core.errors import ConfigError, WeightsError
from vtr_jax.core.io import write_json
from vtr_jax.core.paths import near

STABLEHLO = "stablehlo"


def export(checkpoint: str, to: str, layout: str, params_inside: bool = False) -> None:
  """Writes a run's newest checkpoint; the EMA, if there is one.

  Args:
    checkpoint: directory of a run.
    to: file to write, whose header, of a .safetensors, contains the run's config; or,
      without a suffix, a folder.
    layout: see weights/save.py; or stablehlo, see inference/stablehlo.py.
    params_inside: of stablehlo: whether the functions' files contain the parameters.

  Raises:
    WeightsError: the run's architecture is not that of the layout.
    ConfigError: `to` exists, or has another suffix than the layout's; or the layout
      has no functions, or they do not hold the parameters.
    CheckpointError: the run cannot be read.
  """
  target = pathlib.Path(to)
  if target.exists():
    raise ConfigError(f"--to: {to} exists; choose another name")
  if not target.absolute().parent.is_dir():
    raise ConfigError(f"--to: {to}: no such directory; create it first{near(to)}")
  if layout == STABLEHLO:
    _functions(checkpoint, target, params_inside)
  elif params_inside:
    raise ConfigError(f"--params_inside: {layout} has no functions; use --as=stablehlo")
  else:
    _weights(checkpoint, target, layout)


def _weights(checkpoint: str, target: pathlib.Path, layout: str) -> None:
  from vtr_jax.inference import load as load_lib  # initialises JAX: after the flags
  from vtr_jax.weights import hub_write
  from vtr_jax.weights.save import NPZ, OWN, save

  try:
    from safetensors.numpy import save_file
  except ImportError:
    raise WeightsError(
      "export needs the package safetensors; pip install safetensors"
    ) from None
  if layout in NPZ and target.suffix != ".npz":
    raise ConfigError(f"--to: {target}: {layout} is an .npz file; give it that suffix")
  is_folder = not target.suffix
  if is_folder:
    hub_write.check(layout)
  run = load_lib.load(checkpoint, text=False)
  place = paths.anywhere(checkpoint)
  if not (place / "checkpoints").is_dir():
    raise ConfigError(
      f"--checkpoint: {checkpoint} holds published weights; convert them to a run first"
    )
  params = {
    path: np.asarray(jax.device_get(x))
    for path, x in flatten_dict(run.params, sep="/").items()
  }
  bias = run.config.contrastive.bias
  arrays, omitted = save(layout, run.objective.model, params, bias)
  config = json.loads((place / "config.json").read_text())
  # transformers requires "format"; the values of a header are strings.
  metadata = dict(
    format="pt", layout=layout, step=str(run.step), config=json.dumps(config)
  )
  if layout in NPZ:
    np.savez(target, allow_pickle=False, **arrays)
  elif is_folder:
    with _folder(target) as folder:
      save_file(arrays, folder / "model.safetensors", metadata=metadata)
      vocabulary = _vocabulary(checkpoint)
      if layout == OWN:
        write_json(folder / "config.json", config)
        if vocabulary:
          shutil.copyfile(vocabulary, folder / vocabulary.name)
      else:
        hub_write.write(folder, layout, run.objective.model, vocabulary)
  else:
    save_file(arrays, target, metadata=metadata)
  count = sum(x.size for x in arrays.values())
  print(f"{target}: {len(arrays)} arrays, {count / 1e6:.2f} M parameters, as {layout}")
  if omitted:
    groups = sorted({path.partition("/")[0] for path in omitted})
    print(f"not exported, as {layout} does not have them: {', '.join(groups)}")


def _functions(checkpoint: str, target: pathlib.Path, params_inside: bool) -> None:
  from vtr_jax.inference import load as load_lib  # initialises JAX: after the flags
  from vtr_jax.inference import stablehlo

  stablehlo.check_installed()
  run = load_lib.load(checkpoint, text=False)
  with _folder(target) as folder:
    lines = stablehlo.write(run, folder, params_inside)
    if vocabulary := _vocabulary(checkpoint):
      shutil.copyfile(vocabulary, folder / vocabulary.name)
  params = "" if params_inside else "params.npz and, "
  print("\n".join([f"{target}: {params}as files of jax.export,", *lines]))


def _vocabulary(checkpoint: str) -> pathlib.Path | None:
  """The run's vocabulary as a local file, if it has one."""
  path = paths.anywhere(checkpoint) / "tokenizer.model"
  return buckets.copied(path) if path.exists() else None


@contextlib.contextmanager
def _folder(target: pathlib.Path) -> Iterator[pathlib.Path]:
  """A new folder that gets its name when it is complete."""
  temporary = target.with_name(target.name + ".tmp")
  shutil.rmtree(temporary, ignore_errors=True)
  temporary.mkdir()
  try:
    yield temporary
  except BaseException:
    shutil.rmtree(temporary)
    raise
  temporary.rename(target)


def main() -> None:
  values = flags.FLAGS
  if not values.checkpoint or not values.to:
    raise ConfigError("--checkpoint and --to: both are needed")
  export(values.checkpoint, values.to, LAYOUT.value, values.params_inside)


if __name__ == "__main__":
  flags.DEFINE_string("checkpoint", "", "Directory of a run.")
  flags.DEFINE_string("to", "", "The .safetensors (or .npz) file to write; a folder.")
  LAYOUT = flags.DEFINE_string("as", "vtr_jax", "Layout; see docs/weights.md.")
  text = "Of --as=stablehlo: the functions' files contain the parameters."
  flags.DEFINE_bool("params_inside", False, text)
  cli.run(main)
