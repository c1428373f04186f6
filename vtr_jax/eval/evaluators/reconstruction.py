"""How well masked pixels and tokens are reconstructed: metrics and figures."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from jax.experimental import multihost_utils

from vtr_jax.core import sharding
from vtr_jax.core.batch import patchify
from vtr_jax.core.config import require
from vtr_jax.core.errors import ConfigError, DataError
from vtr_jax.core.sharding import OnDevices
from vtr_jax.data import loader, sources
from vtr_jax.eval.evaluators.base import Context
from vtr_jax.eval.viz import masks, plots
from vtr_jax.objectives.base import Params

_SHOWN = 4  # clips in the picture


@dataclasses.dataclass(frozen=True)
class Config:
  """One section of `evals` with kind = "reconstruction"."""

  split: str  # of the data set
  every: int = 0  # steps between runs; 0 = at the end only; ours
  batches: int = 1  # evaluation batches to look at; ours
  seed: int = 0  # of the masks; ours

  def __post_init__(self):
    require(self.batches > 0, f"batches: {self.batches} must be positive")


class Evaluator:
  """See base.Evaluator."""

  def __init__(self, config: Config, context: Context):
    if context.objective.reconstruct is None:
      raise ConfigError("evals: this objective reconstructs nothing; drop the section")
    self.every = config.every
    self._config, self._context = config, context
    self._data = dataclasses.replace(
      context.data,
      split=config.split,
      mixture=(),
      crop="resize",
      flip=False,
      num_workers=0,
    )
    if not context.objective.mask.num_hidden(context.clip.grid):
      raise ConfigError("evals: mask.video_ratio masks no tubelet; drop the section")
    self._data.open()  # a misspelt split is refused now, not after training
    self._reconstruct = OnDevices(context.objective.reconstruct, context.mesh)

  def run(self, params: Params) -> dict[str, float]:
    c, sums = self._context, np.zeros(5)
    hosts = sharding.host_rows(c.mesh)
    batches = loader.train_batches(
      self._data,
      c.clip,
      c.text,
      c.objective.mask,
      c.tokenizer,
      batch_size=c.batch_size,
      seed=self._config.seed,
      host=hosts.host,
      num_hosts=hosts.count,
    )
    try:
      for _ in range(self._config.batches):
        batch = next(batches)
        if problems := [p for p in batch["problem"] if p]:
          raise DataError(f"{self._config.split}: {problems[0]}; repair or remove it")
        pixels, words = self._reconstruct(params, batch)
        share = hosts.share(c.batch_size)
        mine = self._sums(batch, pixels[share], words[share])
        # Each host has its own rows, and all of them tell the same numbers.
        sums += multihost_utils.process_allgather(mine).reshape(-1, 5).sum(axis=0)
        self._last = batch, pixels[share], words[share]
    finally:
      batches.close()
    values, off, flat, words, right = map(float, sums)
    self._numbers = {
      "pixels/rmse": (off / values) ** 0.5,
      "pixels/rmse_mean_colour": (flat / values) ** 0.5,
      "mlm/accuracy": 100 * right / max(words, 1.0),
    }
    return self._numbers

  def report(self) -> str:
    n = self._numbers
    return (
      f"{self._config.split}: masked pixels off by {n['pixels/rmse']:.4f} of the "
      f"range, the clip's mean colour by {n['pixels/rmse_mean_colour']:.4f}; "
      f"masked tokens right {n['mlm/accuracy']:.1f} %"
    )

  def protocol(self) -> dict[str, Any]:
    directory = sources.find(self._data.dir, self._data.name)
    return dataclasses.asdict(self._config) | dict(
      fingerprint=sources.fingerprint(directory, self._config.split),
      pixels="root mean square over masked tubelets, RGB in [0, 1]; the mean colour "
      "is that of the clip's visible tubelets",
    )

  def draw(self, directory: pathlib.Path, name: str) -> None:
    batch, pixels, words = self._last
    clip, shown = self._context.clip, slice(0, _SHOWN)
    video, idx = batch["video"][shown], batch["video_mask_idx"][shown]
    keys = ("text_ids", "text_valid", "text_masked")
    rows = zip(*(batch[key][shown] for key in keys), words[shown], strict=True)
    plots.reconstruction(
      directory / f"{name}.png",
      video,
      masks.masked(video, idx, clip),
      masks.filled(video, idx, pixels[shown], clip),
      [masks.words(self._context.tokenizer, *row) for row in rows],
    )

  def _sums(self, batch: dict, pixels: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Of this host's rows: [masked values, squared errors of the model's and of the
    mean colour's, masked tokens, right ones]."""
    patches = patchify(batch["video"], self._context.clip.tubelet_size)
    take = lambda key: np.take_along_axis(patches, batch[key][:, :, None], axis=1)
    truth = take("video_mask_idx").astype(np.float32) / 255
    seen = take("video_keep_idx").reshape(len(truth), -1, 3).mean(axis=1) / 255
    flat = truth - np.tile(seen, truth.shape[2] // 3)[:, None]
    hidden = batch["text_masked"]
    right = words[hidden] == batch["text_ids"][hidden]
    off, off_flat = (np.square(x).sum(dtype=np.float64) for x in (pixels - truth, flat))
    found = [truth.size, off, off_flat, right.size, right.sum()]
    return np.array(found, np.float32)
