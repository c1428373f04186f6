"""A run's weights as safetensors: python -m vtr_jax.export --checkpoint=RUN --to=FILE

--as names the layout: vtr_jax (our own names), or one of public codes, such as frozen,
miles, videomae, hf_videomae, timm_vit, hf_clip, which load it with nothing missing.
"""

import json
import pathlib

import jax
import numpy as np
from absl import flags
from flax.traverse_util import flatten_dict

from vtr_jax.core import cli
from vtr_jax.core.errors import ConfigError, WeightsError


def export(checkpoint: str, to: str, layout: str) -> None:
  """Writes the newest parameters of a run; averaged ones where it keeps a mean.

  Args:
    checkpoint: directory of a run.
    to: file that is made; its header holds the run's config.
    layout: see weights/save.py.

  Raises:
    WeightsError: the run's architecture is not the layout's.
    ConfigError: the file is there.
    CheckpointError: the run cannot be read.
  """
  from vtr_jax.inference import load as load_lib  # starts JAX: after the flags
  from vtr_jax.weights.save import save

  try:
    from safetensors.numpy import save_file
  except ImportError:
    raise WeightsError(
      "export needs the package safetensors; pip install safetensors"
    ) from None
  if pathlib.Path(to).exists():
    raise ConfigError(f"--to: {to} is there; choose another name")
  if not pathlib.Path(to).absolute().parent.is_dir():
    raise ConfigError(f"--to: {to}: there is no such directory; make it first")
  run = load_lib.load(checkpoint, text=False)
  params = {
    path: np.asarray(jax.device_get(x))
    for path, x in flatten_dict(run.params, sep="/").items()
  }
  bias = run.config.contrastive.bias
  arrays, left = save(layout, run.objective.model, params, bias)
  config = json.loads((pathlib.Path(checkpoint) / "config.json").read_text())
  # transformers asks for "format"; values of a header are strings.
  about = dict(
    format="pt", layout=layout, step=str(run.step), config=json.dumps(config)
  )
  save_file(arrays, to, metadata=about)
  count = sum(x.size for x in arrays.values())
  print(f"{to}: {len(arrays)} arrays, {count / 1e6:.2f} M numbers, as {layout}")
  if left:
    groups = sorted({path.partition("/")[0] for path in left})
    print(f"left out, {layout} has no place for them: {', '.join(groups)}")


def main() -> None:
  values = flags.FLAGS
  if not values.checkpoint or not values.to:
    raise ConfigError("--checkpoint and --to: both are needed")
  export(values.checkpoint, values.to, values["as"].value)


if __name__ == "__main__":
  flags.DEFINE_string("checkpoint", "", "Directory of a run.")
  flags.DEFINE_string("to", "", "The .safetensors file that is made.")
  flags.DEFINE_string("as", "vtr_jax", "Layout of the names; see docs/weights.md.")
  cli.run(main)
