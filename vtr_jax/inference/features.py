"""Frozen features of a split's clips, computed once and cached in a file.

One centred clip per video, as in evaluation. There is no augmentation: the cache would
be many times larger.
"""

import json
import math
import os
import pathlib
import shutil
import zlib
from typing import Any

import jax
import numpy as np
from jaxtyping import Num

from vtr_jax.core.batch import Batch
from vtr_jax.core.errors import DataError
from vtr_jax.core.progress import Bar
from vtr_jax.core.sharding import OnDevices
from vtr_jax.data import loader, sources
from vtr_jax.data.examples import DataConfig
from vtr_jax.inference.model import LoadedModel
from vtr_jax.objectives.base import Params
from vtr_jax.train import workdir

# Tokens are normalised, so float16 can hold them: half the size.
_DTYPES = dict(pooled=np.dtype("float32"), tokens=np.dtype("float16"))


def of_split(
  model: LoadedModel,
  data: DataConfig,
  source: sources.Split,
  name: str,
  directory: pathlib.Path,
  batch_size: int,
) -> Num[np.ndarray, "v *n d"]:
  """Features of every clip of `source`, as a memory-mapped file in `directory`.

  Reuses the file if it was computed from the same weights, clips and data.

  Args:
    model: its objective has `video_features`.
    data: sampling of frames.
    source: an open split of `data`.
    name: pooled | tokens, of models.pooling.VideoFeatures.
    directory: created if missing.
    batch_size: clips at once, over all devices.

  Raises:
    ConfigError: the objective has no `video_features`.
    DataError: the disk is full, or a record is unusable.
  """
  video_features = model.objective.prediction("video_features", "--checkpoint")
  path = directory / f"{name}-{source.name}.npy"
  stamp, provenance = path.with_suffix(".json"), _provenance(model, data, source)
  if _read(stamp) == provenance and path.exists():
    print(f"{path}: cached features are reused")
    return np.load(path, mmap_mode="r", allow_pickle=False)
  directory.mkdir(parents=True, exist_ok=True)
  stamp.unlink(missing_ok=True)

  dtype = _DTYPES[name]

  def features(params: Params, batch: Batch) -> jax.Array:
    return getattr(video_features(params, batch), name).astype(dtype)

  clip = model.config.clip
  video = jax.ShapeDtypeStruct(
    (batch_size, clip.num_frames, clip.image_size, clip.image_size, 3), "uint8"
  )
  one = jax.eval_shape(features, model.params, dict(video=video))
  shape = (len(source), *one.shape[1:])
  temporary = path.with_suffix(".tmp")
  temporary.unlink(missing_ok=True)
  _check_space(directory, path.name, math.prod(shape) * dtype.itemsize)
  out = np.lib.format.open_memmap(temporary, "w+", dtype, shape)
  embed = OnDevices(features, model.mesh)
  batches = loader.eval_videos(source, data, clip, batch_size)
  total = -(-len(source) // batch_size)
  batches = Bar(batches, f"features of {source.name}", total, unit="batch")
  for start, batch in zip(range(0, len(source), batch_size), batches, strict=True):
    out[start : start + batch_size] = embed(model.params, batch)[: len(source) - start]
  out.flush()
  os.replace(temporary, path)
  workdir.write_json(stamp, provenance)
  return np.load(path, mmap_mode="r", allow_pickle=False)


def _provenance(
  model: LoadedModel, data: DataConfig, source: sources.Split
) -> dict[str, Any]:
  """Everything the features depend on, as JSON."""
  weights = 0
  for leaf in jax.tree.leaves(model.params):
    weights = zlib.crc32(np.ascontiguousarray(leaf).data, weights)
  clip = model.config.clip
  return dict(
    weights=weights,
    fingerprint=sources.fingerprint(source.directory, source.name),
    clips=len(source),
    frames=clip.num_frames,
    size=clip.image_size,
    sampling=data.sampling,
    stride=data.stride,
    model=repr(model.objective.model),
  )


def _read(stamp: pathlib.Path) -> Any:
  try:
    return json.loads(stamp.read_text())
  except (OSError, ValueError):  # absent or incomplete
    return None


def _check_space(directory: pathlib.Path, name: str, size: int) -> None:
  free = shutil.disk_usage(directory).free
  if size > free:
    raise DataError(
      f"{directory}: {name} takes {size / 1e9:.1f} GB, and {free / 1e9:.1f} are free; "
      "give an --out with more space, or use --kind=linear"
    )
