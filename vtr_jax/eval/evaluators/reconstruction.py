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

_SHOWN = 4  # clips in the figure


@dataclasses.dataclass(frozen=True)
class Config:
  """One section of `evals` with kind = "reconstruction"."""

  split: str  # of the data set
  every: int = 0  # steps between runs; 0 = at the end only; ours
  batches: int = 1  # evaluation batches; ours
  seed: int = 0  # of the masks; ours

  needs = ("reconstruct",)  # predictions of the objective

  def __post_init__(self):
    require(self.batches > 0, f"batches: {self.batches} must be positive")


class Evaluator:
  """See base.Evaluator."""

  def __init__(self, config: Config, context: Context):
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
    if not context.objective.mask.num_masked(context.clip.grid):
      raise ConfigError("evals: mask.video_ratio masks no tubelet; drop the section")
    self._data.open()  # an unknown split fails now, not after training
    self._reconstruct = OnDevices(
      context.objective.predict["reconstruct"], context.mesh
    )

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
      rows=c.objective.rows,
    )
    try:
      for _ in range(self._config.batches):
        batch = next(batches)
        if problems := [p for p in batch["problem"] if p]:
          raise DataError(f"{self._config.split}: {problems[0]}; repair or remove it")
        pixels, tokens = self._reconstruct(params, batch)
        local = hosts.local_slice(c.batch_size)
        local_tokens = None if tokens is None else tokens[local]
        local_sums = self._sums(batch, pixels[local], local_tokens)
        # Each host has its own rows; all report the same metrics.
        gathered = multihost_utils.process_allgather(local_sums)
        sums += gathered.reshape(-1, 5).sum(axis=0)
        self._last = batch, pixels[local], local_tokens
    finally:
      batches.close()
    values, error, baseline, masked, correct = map(float, sums)
    self._results = {
      "pixels/rmse": (error / values) ** 0.5,
      "pixels/rmse_mean_colour": (baseline / values) ** 0.5,
    }
    if self._last[2] is not None:
      self._results["mlm/accuracy"] = 100 * correct / max(masked, 1.0)
    return self._results

  def report(self) -> str:
    n = self._results
    line = (
      f"{self._config.split}: RMSE of masked pixels {n['pixels/rmse']:.4f} of the "
      f"range, of the clip's mean colour {n['pixels/rmse_mean_colour']:.4f}"
    )
    if "mlm/accuracy" in n:
      line += f"; accuracy of masked tokens {n['mlm/accuracy']:.1f} %"
    return line

  def protocol(self) -> dict[str, Any]:
    directory = sources.find(self._data.dir, self._data.name)
    return dataclasses.asdict(self._config) | dict(
      fingerprint=sources.fingerprint(directory, self._config.split),
      pixels="root mean square error over masked tubelets, RGB in [0, 1]; the mean "
      "colour is that of the clip's visible tubelets",
    )

  def draw(self, directory: pathlib.Path, name: str) -> None:
    batch, pixels, tokens = self._last
    clip, shown = self._context.clip, slice(0, _SHOWN)
    video, idx = batch["video"][shown], batch["video_mask_idx"][shown]
    keys = ("text_ids", "text_valid", "text_masked")
    predicted = [None] * len(video) if tokens is None else tokens[shown]
    rows = zip(*(batch[key][shown] for key in keys), predicted, strict=True)
    plots.reconstruction(
      directory / f"{name}.png",
      video,
      masks.masked(video, idx, clip),
      masks.filled(video, idx, pixels[shown], clip),
      [masks.words(self._context.tokenizer, *row) for row in rows],
    )

  def _sums(
    self, batch: dict, pixels: np.ndarray, tokens: np.ndarray | None
  ) -> np.ndarray:
    """Sums over this host's rows: [masked pixel values, squared error of the model,
    squared error of the mean colour, masked tokens, correct tokens]; 0 tokens if the
    model predicts none."""
    patches = patchify(batch["video"], self._context.clip.tubelet_size)
    take = lambda key: np.take_along_axis(patches, batch[key][:, :, None], axis=1)
    target = take("video_mask_idx").astype(np.float32) / 255
    colour = take("video_keep_idx").reshape(len(target), -1, 3).mean(axis=1) / 255
    residuals = pixels - target, target - np.tile(colour, target.shape[2] // 3)[:, None]
    error, baseline = (np.square(x).sum(dtype=np.float64) for x in residuals)
    masked, correct = batch["text_masked"], np.zeros(0, bool)
    if tokens is not None:
      correct = tokens[masked] == batch["text_ids"][masked]
    sums = [target.size, error, baseline, correct.size, correct.sum()]
    return np.array(sums, np.float32)
