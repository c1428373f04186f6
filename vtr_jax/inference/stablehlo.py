"""Writes a model as StableHLO: functions and parameters that JAX alone can call.

A folder gets a file of `jax.export` for each of these predictions that the model has.
They run on CPUs, GPUs and TPUs, on arrays with any number of rows:

  embed_video.bin   clips [b t s s 3] uint8, RGB                   -> [b e], unit norm
  embed_text.bin    ids [b l] int32, valid tokens [b l] bool       -> [b e], unit norm

Either a file contains the parameters that it uses, or the folder gets params.npz, all
parameters by path, and each function takes them, as a dictionary, before the arrays.
"""

import pathlib
from collections.abc import Collection
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
# Of the parameters in a file of jax.export: it is a flatbuffer, which with the program
# is limited to 2**31 bytes. JAX warns of constants above this.
_MAX_BYTES = 2 * 10**9


def write(model: LoadedModel, folder: pathlib.Path, params_inside: bool) -> list[str]:
  """Writes the files into an empty folder; returns a line about each function.

  Activations have the run's dtype, float32 if it leaves that to the machine; attention
  is XLA's.

  Args:
    model: as `inference.load` returns it.
    folder: where the files are written.
    params_inside: whether the files contain the parameters; otherwise params.npz does.

  Raises:
    ConfigError: the model has none of the functions, or its parameters do not fit into
      their files.
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
    exported = _export(model, name, params)
    shown = [*map(str, exported.in_avals[len(params) :])]
    if params_inside:
      exported = _export(model, name, params, _used(name, params, exported))
    else:
      shown.insert(0, "params")
    (folder / f"{name}.bin").write_bytes(exported.serialize())
    lines.append(f"{name}({', '.join(shown)}) -> {exported.out_avals[0]}")
  return lines


def _used(
  name: str, params: dict[str, np.ndarray], exported: export.Exported
) -> set[str]:
  """Paths of the parameters that a function uses.

  Raises:
    ConfigError: they do not fit into a file.
  """
  kept = set(exported.module_kept_var_idx)  # of arguments: a dictionary's by sorted key
  used = {path for i, path in enumerate(sorted(params)) if i in kept}
  size = sum(params[path].nbytes for path in used)
  if size > _MAX_BYTES:
    raise ConfigError(
      f"--params_inside: {name} uses {size / 1e9:.2f} GB of parameters, and a file of "
      f"jax.export holds {_MAX_BYTES / 1e9:g} GB; omit it, and params.npz has them"
    )
  return used


def check_installed() -> None:
  """Raises VtrError if JAX cannot write these files here."""
  try:
    import flatbuffers  # noqa: F401  # pyright: ignore[reportMissingImports] (optional)
  except ImportError:
    raise VtrError(
      "--as: stablehlo needs the package flatbuffers; pip install flatbuffers"
    ) from None


def _export(
  model: LoadedModel,
  name: str,
  params: dict[str, np.ndarray],
  inside: Collection[str] = (),
) -> export.Exported:
  """The function; the parameters named by `inside`, all that it uses, are constants."""
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

  def function_of_arrays(*arrays: Any) -> Any:
    # Without barriers, XLA folds constants for minutes when it compiles.
    barrier = jax.lax.optimization_barrier
    return function(params | {path: barrier(params[path]) for path in inside}, *arrays)

  shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
  given = [jax.ShapeDtypeStruct(*inputs[key]) for key in keys]
  if inside:
    call = export.export(jax.jit(function_of_arrays), platforms=PLATFORMS)
    return call(*given)
  call = export.export(jax.jit(function), platforms=PLATFORMS)
  return call(jax.tree.map(shape, params), *given)
