"""The whole config, and what follows from it alone: no data, device or directory."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import optax
from jax.sharding import AbstractMesh, Mesh

from vtr_jax.core import batch as batch_lib
from vtr_jax.core.batch import ClipSpec, MaskSpec, TextSpec
from vtr_jax.core.config import require
from vtr_jax.core.sharding import MeshConfig
from vtr_jax.data.examples import DataConfig
from vtr_jax.objectives import base as objectives
from vtr_jax.objectives.contrastive import ContrastConfig
from vtr_jax.train import flops, optim, step
from vtr_jax.train import state as state_lib
from vtr_jax.train.guard import GuardConfig
from vtr_jax.train.loss import Loss, check_weights
from vtr_jax.train.optim import OptimConfig
from vtr_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """The whole config; sections are read by the modules that use them."""

  name: str  # of the run; runs/<name> is the default workdir
  seed: int  # of parameters, data order, masks, dropout, negatives
  init_from: str  # run to start from, or public weights: KIND:FILE,...; "" = neither
  init_allow: tuple[str, ...]  # patterns: of public weights, what may miss or be left
  steps: int
  batch_size: int  # clips per step over all devices
  eval_batch_size: int  # rows per evaluation batch over all devices
  log_every: int  # steps
  checkpoint_every: int  # steps; the last step is always saved
  checkpoint_keep: int  # newest checkpoints that stay
  clip: ClipSpec
  text: TextSpec
  tokenizer: str  # vocabulary file; "" = init_from's, or the data set's own
  mask: MaskSpec
  data: DataConfig
  objective: dict[str, Any]
  loss_weights: dict[str, float]  # of each loss term
  contrastive: ContrastConfig
  micro_batches: int  # parts that a step's batch is embedded in; see Loss
  optim: OptimConfig
  guard: GuardConfig
  mesh: MeshConfig
  evals: dict[str, Any]

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.type is int and field.name != "seed":
        require(value > 0, f"{field.name}: {value} must be positive")
    require(self.batch_size > 1, "batch_size: 1 leaves no pair to tell apart; use 2 up")
    require(0 <= self.seed < 2**32, f"seed: {self.seed} not in [0, 2**32)")

  def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a training batch."""
    mask = self.make_objective().mask
    return batch_lib.spec(self.clip, self.text, mask, self.batch_size)

  def make_objective(self) -> objectives.Objective:
    return objectives.build(self.objective, self.clip, self.text, self.mask)

  def parts(self) -> "Parts":
    """Of its training; refuses what cannot be trained."""
    objective, spec = self.make_objective(), self.spec()
    check_weights(self.loss_weights, objective)
    params = nn.unbox(state_lib.abstract_params(objective, spec))
    optimizer = optim.make(self.optim, self.steps, params)
    return Parts(self, objective, spec, optimizer)

  def flops(self) -> float:
    """Of a step's loss and gradient: what the model asks for, on all devices.

    What is computed twice to save memory counts once.
    """
    plain = dict(self.objective)
    if "compute" in plain:
      # Nor can it be seen what a kernel does.
      same = dict(remat="none", attention="xla")
      plain["compute"] = {**plain["compute"], **same}
    objective = dataclasses.replace(self, objective=plain).make_objective()
    params = nn.unbox(state_lib.abstract_params(objective, self.spec()))
    teacher, key = objective.shadowed(params), jax.random.key(0)
    loss = Loss(objective, self.loss_weights)
    return flops.of(loss.gradient, params, teacher, self.spec(), key)


@dataclasses.dataclass(frozen=True)
class Parts:
  """What a training is made of; arrays only where `init` or the step is called."""

  config: TrainConfig
  objective: objectives.Objective
  spec: dict[str, jax.ShapeDtypeStruct]  # of a batch
  optimizer: optax.GradientTransformation

  @property
  def _kept(self) -> tuple[bool, int]:
    """What a state has beside the usual: (a running mean, steps of history)."""
    return self.config.optim.ema_decay > 0, self.config.guard.history

  def abstract(self, mesh: Mesh | AbstractMesh) -> tuple[TrainState, TrainState]:
    """(shapes of the state, its shardings)."""
    parts = self.objective, self.optimizer, self.spec
    return state_lib.abstract(*parts, mesh, *self._kept)

  def init(self, mesh: Mesh) -> TrainState:
    """The state before the first step, of random parameters."""
    parts = self.objective, self.optimizer, self.spec
    return state_lib.init(*parts, mesh, self.config.seed, *self._kept)[0]

  def loss(self, mesh: Mesh) -> Loss:
    """What is made small."""
    c = self.config
    return Loss(self.objective, c.loss_weights, c.contrastive, c.micro_batches, mesh)

  def train_step(self, mesh: Mesh) -> Callable:
    """One jitted step, (state, batch) to (state, numbers)."""
    c = self.config
    return step.make_train_step(
      self.loss(mesh),
      self.optimizer,
      c.steps,
      c.seed,
      self.abstract(mesh)[1],
      c.optim.ema_decay,
      c.guard.limit,
    )
