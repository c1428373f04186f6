"""AdamW or Muon with schedule, clipping, and rules for parameters, by their paths.

A path is the parameter's keys joined by '/', such as
`encoder/block_0/mlp/up/kernel`. Rules are (regular expression, factor) pairs; the first
one that matches counts. A parameter that no rule covers, or a rule that covers no
parameter, is an error, so that misspelt rules are noticed.

Layer-wise decay of the learning rate (ELECTRA, arXiv 2003.10555, appendix; BEiT, arXiv
2106.08254, appendix): layers further from the output of a pre-trained tower get a
smaller learning rate. The model states them (`layers_above`): with d blocks, a tower's
layers are 0 for the embeddings (patches, tokens, positions, class and mask token),
i + 1 for block i, and d + 1 for all that follows (last norm, projections, heads), which
learns at the full rate. So does a decoder, whose blocks follow those of the encoder.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from vtr_jax.core.config import choose, require
from vtr_jax.core.errors import ConfigError
from vtr_jax.train.muon import scale_by_muon

Rules = tuple[tuple[str, float], ...]

# Path -> number of layers above the parameter; a range for stacked blocks.
LayersAbove = Callable[[str], int | range]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
  """Section `optim` of the config."""

  lr: float  # peak learning rate, at the end of the warm-up
  min_lr: float = 0.0  # learning rate at the last step; constant ignores it; ours
  schedule: str = "cosine"  # after the warm-up: cosine | constant; code: SimVTP
  warmup_steps: int  # linear from 0; shortened to a tenth of a shorter training
  b1: float = 0.9  # decay of Adam's first moments; code: Frozen, MCQ, SimVTP
  b2: float = 0.999  # decay of Adam's second moments; code: Frozen, MCQ
  eps: float = 1e-6  # added to the root of the second moments; code: Frozen, MCQ
  weight_decay: float  # decoupled, as in AdamW
  decay_rules: Rules  # path -> factor of weight_decay
  # path -> factor of the learning rate, 0 freezes; code: none is frozen
  lr_rules: Rules = ((".*", 1.0),)
  # of the gradient over all parameters; 0 = off; code: Frozen, MCQ, SimVTP
  clip_norm: float = 0.0
  # path of kernels that Muon updates, a regular expression; "" = none; code: none
  muon: str = ""
  moments: str = "float32"  # dtype of the first moments, or bfloat16; code: float32
  # ratio of learning rates of a layer and the next; 1 = off; ours (MAE: 0.75)
  layer_decay: float = 1.0
  # of an EMA of all parameters, for evaluation; 0 = none; ours
  ema_decay: float = 0.0

  def __post_init__(self):
    choose(self.schedule, ("cosine", "constant"), "schedule")
    choose(self.moments, ("float32", "bfloat16"), "moments")
    require(self.lr >= 0, f"lr: {self.lr} must not be negative")
    require(self.clip_norm >= 0, f"clip_norm: {self.clip_norm} is negative")
    require(0 < self.layer_decay <= 1, f"layer_decay: {self.layer_decay} not in (0, 1]")
    require(0 <= self.ema_decay < 1, f"ema_decay: {self.ema_decay} not in [0, 1)")
    patterns = [
      (key, p) for key in ("decay_rules", "lr_rules") for p, _ in getattr(self, key)
    ]
    for key, pattern in [*patterns, ("muon", self.muon)]:
      try:
        re.compile(pattern)
      except re.error as e:
        raise ConfigError(
          f"{key}: {pattern!r} is not a valid regular expression ({e})"
        ) from e
    require(self.warmup_steps >= 0, f"warmup_steps: {self.warmup_steps} is negative")


def paths(params: Any) -> Any:
  """A tree like `params` that holds each parameter's path."""
  name = lambda path, _: "/".join(str(k.key) for k in path)
  return jax.tree_util.tree_map_with_path(name, params)


def by_rule(params: Any, rules: Rules, where: str) -> Any:
  """A tree like `params` with each parameter's factor.

  Raises:
    ConfigError: no rule covers a parameter, or a rule matches none.
  """
  used = set()

  def factor(path: str) -> float:
    for pattern, value in rules:
      if re.search(pattern, path):
        used.add(pattern)
        return value
    raise ConfigError(f"{where}: no rule covers {path}; end with ('.*', factor)")

  tree = jax.tree.map(factor, paths(params))
  # A catch-all at the end may match nothing.
  for pattern, _ in rules:
    if pattern not in used and pattern != ".*":
      raise ConfigError(
        f"{where}: {pattern!r} matches no parameter; check its spelling"
      )
  return tree


def by_layer(params: Any, decay: float, layers_above: LayersAbove | None) -> Any:
  """A tree like `params` with the factor `decay` ** (layers above) of each parameter.

  For stacked blocks (`compute.scan`) it is an array [d, 1, ...], a factor per block.

  Raises:
    ConfigError: the objective's model has no `layers_above`.
  """
  if layers_above is None:
    raise ConfigError("config.optim.layer_decay: the model has no layers; set 1.0")

  def factor(path: str, param: Any) -> Any:
    above = layers_above(path)
    if isinstance(above, int):
      return decay**above
    factors = np.array([decay**layers for layers in above])
    return factors.reshape(-1, *[1] * (param.ndim - 1))

  return jax.tree.map(factor, paths(params), params)


def schedule(config: OptimConfig, steps: int) -> optax.Schedule:
  """Learning rate by step: linear warm-up, then cosine to `min_lr` or constant."""
  warmup = _warmup_steps(config, steps)
  if config.schedule == "constant":
    warm = optax.linear_schedule(0.0, config.lr, warmup)
    return warm if warmup else optax.constant_schedule(config.lr)
  return optax.warmup_cosine_decay_schedule(
    0.0 if warmup else config.lr, config.lr, warmup, steps, config.min_lr
  )


def _warmup_steps(config: OptimConfig, steps: int) -> int:
  """Below `steps`: a tenth of them if the config's warm-up does not fit; ours."""
  return config.warmup_steps if config.warmup_steps < steps else steps // 10


def short_warmup(config: OptimConfig, steps: int) -> list[str]:
  """A warning if the warm-up is shortened."""
  warmup = _warmup_steps(config, steps)
  if warmup == config.warmup_steps:
    return []
  return [
    f"config.optim.warmup_steps: {config.warmup_steps} is not below steps = {steps}; "
    f"shortened to {warmup}"
  ]


def make(
  config: OptimConfig,
  steps: int,
  params: Any,
  layers_above: LayersAbove | None = None,
  products: str = "bfloat16",
) -> optax.GradientTransformation:
  """The optimiser; `params` may be abstract, only paths and shapes are read.

  `layers_above` is the method of the objective's model, for `layer_decay`; `products`
  the dtype that Muon multiplies in, that of the model's activations.
  """
  decay = by_rule(params, config.decay_rules, "config.optim.decay_rules")
  rate = by_rule(params, config.lr_rules, "config.optim.lr_rules")
  frozen = jax.tree.map(lambda r: r == 0, rate)
  if config.layer_decay != 1:
    layers = by_layer(params, config.layer_decay, layers_above)
    rate = jax.tree.map(lambda r, layer: np.float32(r * layer), rate, layers)
  by_muon = _by_muon(config.muon, params, frozen)
  by_adam = jax.tree.map(lambda *excluded: not any(excluded), frozen, by_muon)

  def decayed(updates, params):
    add = lambda u, p, factor: u + config.weight_decay * factor * p
    return jax.tree.map(add, updates, params, decay)

  def scaled(updates, _):
    return jax.tree.map(lambda u, factor: u * factor, updates, rate)

  return optax.chain(
    optax.masked(optax.set_to_zero(), frozen),  # before the norm is computed
    optax.clip_by_global_norm(config.clip_norm)
    if config.clip_norm
    else optax.identity(),
    # Second moments stay in float32: in bfloat16 their small changes would be lost.
    optax.masked(
      optax.scale_by_adam(config.b1, config.b2, config.eps, mu_dtype=config.moments),
      by_adam,
    ),
    optax.masked(scale_by_muon(dtype=config.moments, products=products), by_muon)
    if config.muon
    else optax.identity(),
    optax.stateless(decayed),
    optax.stateless(scaled),
    optax.scale_by_learning_rate(schedule(config, steps)),
  )


def _by_muon(pattern: str, params: Any, frozen: Any) -> Any:
  """A tree like `params`: whether Muon updates each parameter.

  Raises:
    ConfigError: the pattern matches none, or one that is not a matrix.
  """
  if not pattern:
    return jax.tree.map(lambda _: False, params)
  matched = jax.tree.map(lambda path: bool(re.search(pattern, path)), paths(params))
  require(
    any(jax.tree.leaves(matched)),
    f"config.optim.muon: {pattern!r} matches no parameter",
  )

  def updated(path: str, param: Any, matched: bool, frozen: bool) -> bool:
    require(
      not matched or param.ndim > 1,
      f"config.optim.muon: {pattern!r} matches {path}, which is not a matrix",
    )
    return matched and not frozen

  return jax.tree.map(updated, paths(params), params, matched, frozen)
