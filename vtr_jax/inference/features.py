"""Frozen features of a split's clips, computed once and kept in a file.

Each clip is seen once, whole and centred, as in evaluation. There is no augmentation:
what is kept would be many times as large.
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
from vtr_jax.core.errors import ConfigError, DataError
from vtr_jax.core.progress import Bar
from vtr_jax.core.sharding import OnDevices
from vtr_jax.data import loader, sources
from vtr_jax.data.examples import DataConfig
from vtr_jax.inference.model import LoadedModel
from vtr_jax.objectives.base import Params
from vtr_jax.train import workdir

# Tokens are normalised, so that float16 holds them: half the bytes.
_DTYPES = dict(pooled=np.dtype("float32"), tokens=np.dtype("float16"))


def of_split(
  model: LoadedModel,
  data: DataConfig,
  source: sources.Split,
  name: str,
  place: pathlib.Path,
  batch_size: int,
) -> Num[np.ndarray, "v *n d"]:
  """Features of every clip of `source`, a memory-mapped file in `place`.

  They are computed if those of the same weights, clips and data are not there yet; a
  bar shows the time that is left.

  Args:
    model: its objective has `video_features`.
    data: sampling of frames.
    source: an open split of `data`.
    name: pooled | tokens, of objectives.base.VideoFeatures.
    place: directory, made if it is not there.
    batch_size: clips at once, over all devices.

  Raises:
    ConfigError: the objective tells no features.
    DataError: there is no room, or a record is unusable.
  """
  video_features = model.objective.video_features
  if video_features is None:
    raise ConfigError("--checkpoint: this objective has no video_features to probe")
  path = place / f"{name}-{source.name}.npy"
  stamp, provenance = path.with_suffix(".json"), _provenance(model, data, source)
  if _read(stamp) == provenance and path.exists():
    print(f"{path}: features that are there already")
    return np.load(path, mmap_mode="r", allow_pickle=False)
  place.mkdir(parents=True, exist_ok=True)
  stamp.unlink(missing_ok=True)

  dtype = _DTYPES[name]

  def features(params: Params, batch: Batch) -> jax.Array:
    return getattr(video_features(params, batch), name).astype(dtype)

  clip, rows = model.config.clip, batch_size
  video = jax.ShapeDtypeStruct(
    (rows, clip.num_frames, clip.image_size, clip.image_size, 3), "uint8"
  )
  one = jax.eval_shape(features, model.params, dict(video=video))
  shape = (len(source), *one.shape[1:])
  temporary = path.with_suffix(".tmp")
  temporary.unlink(missing_ok=True)
  _check_room(place, path.name, math.prod(shape) * dtype.itemsize)
  out = np.lib.format.open_memmap(temporary, "w+", dtype, shape)
  embed = OnDevices(features, model.mesh)
  batches = loader.eval_videos(source, data, clip, rows)
  total = -(-len(source) // rows)
  batches = Bar(batches, f"features of {source.name}", total, unit="batch")
  for start, batch in zip(range(0, len(source), rows), batches, strict=True):
    out[start : start + rows] = embed(model.params, batch)[: len(source) - start]
  out.flush()
  os.replace(temporary, path)
  workdir.write_json(stamp, provenance)
  return np.load(path, mmap_mode="r", allow_pickle=False)


def _provenance(
  model: LoadedModel, data: DataConfig, source: sources.Split
) -> dict[str, Any]:
  """What the features depend on, as JSON."""
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
  except (OSError, ValueError):  # absent, or half written
    return None


def _check_room(place: pathlib.Path, name: str, size: int) -> None:
  free = shutil.disk_usage(place).free
  if size > free:
    raise DataError(
      f"{place}: {name} takes {size / 1e9:.1f} GB, and {free / 1e9:.1f} are free; give "
      "an --out with room, or use --kind=linear"
    )
