"""Exports weights: python -m vtr_jax.export --checkpoint=RUN --to=FILE.safetensors

--as selects the layout: vtr_jax (this package's names), or that of a public code, such
as frozen, miles, videomae, hf_videomae, timm_vit or hf_clip, which loads it completely.
VideoPrism's layouts are .npz files.
"""

import json
import pathlib

import jax
import numpy as np
from absl import flags
from flax.traverse_util import flatten_dict

from vtr_jax.core import cli
from vtr_jax.core.errors import ConfigError, WeightsError
from vtr_jax.core.paths import near


def export(checkpoint: str, to: str, layout: str) -> None:
  """Writes the parameters of a run's newest checkpoint; the EMA, if there is one.

  Args:
    checkpoint: directory of a run.
    to: file to write; the header of a .safetensors contains the run's config.
    layout: see weights/save.py.

  Raises:
    WeightsError: the run's architecture is not that of the layout.
    ConfigError: the file exists.
    CheckpointError: the run cannot be read.
  """
  from vtr_jax.inference import load as load_lib  # initialises JAX: after the flags
  from vtr_jax.weights.save import NPZ, save

  try:
    from safetensors.numpy import save_file
  except ImportError:
    raise WeightsError(
      "export needs the package safetensors; pip install safetensors"
    ) from None
  if layout in NPZ and not to.endswith(".npz"):
    raise ConfigError(f"--to: {to}: {layout} is an .npz file; give it that suffix")
  if pathlib.Path(to).exists():
    raise ConfigError(f"--to: {to} exists; choose another name")
  if not pathlib.Path(to).absolute().parent.is_dir():
    raise ConfigError(f"--to: {to}: no such directory; create it first{near(to)}")
  run = load_lib.load(checkpoint, text=False)
  params = {
    path: np.asarray(jax.device_get(x))
    for path, x in flatten_dict(run.params, sep="/").items()
  }
  bias = run.config.contrastive.bias
  arrays, omitted = save(layout, run.objective.model, params, bias)
  config = json.loads((pathlib.Path(checkpoint) / "config.json").read_text())
  # transformers requires "format"; the values of a header are strings.
  metadata = dict(
    format="pt", layout=layout, step=str(run.step), config=json.dumps(config)
  )
  if layout in NPZ:
    np.savez(to, allow_pickle=False, **arrays)
  else:
    save_file(arrays, to, metadata=metadata)
  count = sum(x.size for x in arrays.values())
  print(f"{to}: {len(arrays)} arrays, {count / 1e6:.2f} M parameters, as {layout}")
  if omitted:
    groups = sorted({path.partition("/")[0] for path in omitted})
    print(f"not exported, as {layout} does not have them: {', '.join(groups)}")


def main() -> None:
  values = flags.FLAGS
  if not values.checkpoint or not values.to:
    raise ConfigError("--checkpoint and --to: both are needed")
  export(values.checkpoint, values.to, LAYOUT.value)


if __name__ == "__main__":
  flags.DEFINE_string("checkpoint", "", "Directory of a run.")
  flags.DEFINE_string("to", "", "The .safetensors (or .npz) file to write.")
  LAYOUT = flags.DEFINE_string("as", "vtr_jax", "Layout; see docs/weights.md.")
  cli.run(main)
