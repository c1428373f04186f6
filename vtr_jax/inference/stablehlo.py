"""Writes a model as StableHLO: functions and parameters that JAX alone can call.

A folder gets a file of `jax.export` for each of these predictions that the model has.
They run on CPUs, GPUs and TPUs, on arrays with any number of rows:

  embed_video.bin   clips [b t s s 3] uint8, RGB                   -> [b e], unit norm
  embed_text.bin    ids [b l] int32, valid tokens [b l] bool       -> [b e], unit norm

Either a file contains the parameters that it uses, or the folder gets params.npz, all
parameters by path, and each function takes them, as a dictionary, before the arrays.
"""

import functools
import pathlib
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export

from vtr_jax.core.errors import ConfigError, VtrError
from vtr_jax.inference.model import LoadedModel

FUNCTIONS: dict[str, tuple[str, ...]] = dict(
  embed_video=("video",), embed_text=("text_ids", "text_valid")
)
PLATFORMS = ("cpu", "cuda", "tpu")


def write(model: LoadedModel, folder: pathlib.Path, params_inside: bool) -> list[str]:
  """Writes the files into an empty folder; returns a line about each function.

  Activations have the run's dtype, float32 if it leaves that to the machine; attention
  is XLA's.

  Args:
    model: as `inference.load` returns it.
    folder: where the files are written.
    params_inside: whether the files contain the parameters; otherwise params.npz does.

  Raises:
    ConfigError: the model has none of the functions, or a file would exceed 2 GiB, the
      limit of its format.
  """
  names = [name for name in FUNCTIONS if name in model.objective.predict]
  if not names:
    raise ConfigError(f"--as: {model.name} embeds neither videos nor texts")
  params = {
    path: np.asarray(jax.device_get(x))
    for path, x in flatten_dict(model.params, sep="/").items()
  }
  if not params_inside:
    np.savez(folder / "params.npz", allow_pickle=False, **params)
  lines = []
  for name in names:
    exported = _export(model, name, params, params_inside)
    (folder / f"{name}.bin").write_bytes(_serialized(name, exported))
    arrays = exported.in_avals[-len(FUNCTIONS[name]) :]
    shown = [*([] if params_inside else ["params"]), *map(str, arrays)]
    lines.append(f"{name}({', '.join(shown)}) -> {exported.out_avals[0]}")
  return lines


def _serialized(name: str, exported: export.Exported) -> bytearray:
  from flatbuffers.builder import BuilderSizeError  # pyright: ignore[reportMissingImports] (optional)

  try:
    return exported.serialize()
  except BuilderSizeError:
    size = len(exported.mlir_module_serialized)
    raise ConfigError(
      f"--params_inside: {name} has {size / 2**30:.2f} GiB of parameters, and a file "
      "of jax.export less than 2; omit it: they are in params.npz then"
    ) from None


def check_installed() -> None:
  """Raises VtrError if JAX cannot write these files here."""
  try:
    import flatbuffers  # noqa: F401  # pyright: ignore[reportMissingImports] (optional)
  except ImportError:
    raise VtrError(
      "--as: stablehlo needs the package flatbuffers; pip install flatbuffers"
    ) from None


def _export(
  model: LoadedModel, name: str, params: dict[str, np.ndarray], inside: bool
) -> export.Exported:
  c = model.config
  portable: dict[str, Any] = dict(attention="xla", remat="none")
  if c.objective.get("compute", {}).get("dtype", "auto") == "auto":
    portable |= dict(dtype="float32")
  predict = c.make_objective(**portable).prediction(name, model.name)
  size, length = c.clip.image_size, c.text.max_length
  (b,) = export.symbolic_shape("b")
  inputs = dict(
    video=((b, c.clip.num_frames, size, size, 3), jnp.uint8),
    text_ids=((b, length), jnp.int32),
    text_valid=((b, length), jnp.bool_),
  )
  keys = FUNCTIONS[name]

  def function(params: dict[str, Any], *arrays: Any) -> Any:
    batch = dict(zip(keys, arrays, strict=True))
    return predict(unflatten_dict(params, sep="/"), batch)

  given = [jax.ShapeDtypeStruct(*inputs[key]) for key in keys]
  if inside:
    constants = jax.tree.map(jnp.asarray, params)
    call = jax.jit(functools.partial(function, constants))
    with warnings.catch_warnings():
      warnings.filterwarnings("ignore", "A large amount of constants")
      return export.export(call, platforms=PLATFORMS)(*given)
  call = export.export(jax.jit(function), platforms=PLATFORMS)
  shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
  return call(jax.tree.map(shape, params), *given)
