"""The full config, and the parts built from it without data, device or directory."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import optax
from jax.sharding import AbstractMesh, Mesh

from vtr_jax.core import config_help, sharding
from vtr_jax.core.batch import ClipSpec, MaskSpec, TextSpec
from vtr_jax.core.config import complete, require
from vtr_jax.core.sharding import MeshConfig
from vtr_jax.data.examples import DataConfig
from vtr_jax.eval.evaluators import base as evaluators
from vtr_jax.objectives import base as objectives
from vtr_jax.objectives.contrastive import ContrastConfig
from vtr_jax.train import flops, optim, step
from vtr_jax.train import state as state_lib
from vtr_jax.train.guard import GuardConfig
from vtr_jax.train.loss import Loss, check_weights
from vtr_jax.train.optim import OptimConfig
from vtr_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """The full config; each section is read by the module that uses it."""

  name: str  # of the run; runs/<name> is the default workdir
  seed: int = 0  # of parameters, data order, masks, dropout, negatives; ours
  # run to start from, or public weights: KIND:FILE,...; "" = neither; ours
  init_from: str = ""
  # patterns of parameters and keys that may stay unmatched; ours
  init_allow: tuple[str, ...] = ()
  # groups of parameters that another run has not, such as "head": they keep their
  # initial values, and what only that run has is not used; ours
  init_heads: tuple[str, ...] = ()
  steps: int  # of the optimizer
  batch_size: int  # clips per step over all devices
  eval_batch_size: int = 256  # examples per evaluation batch over all devices; ours
  log_every: int = 50  # steps; ours
  checkpoint_every: int = 2000  # steps; the last step is always saved; ours
  checkpoint_keep: int = 3  # number of newest checkpoints to keep; ours
  clip: ClipSpec
  text: TextSpec = dataclasses.field(default_factory=TextSpec)
  tokenizer: str = ""  # vocabulary file; "" = init_from's, or the data set's own; ours
  mask: MaskSpec
  data: DataConfig
  objective: dict[str, Any]  # its name, and the keys of that objective's Config
  loss_weights: dict[str, float]  # of each loss term
  contrastive: ContrastConfig = dataclasses.field(default_factory=ContrastConfig)
  micro_batches: int = 1  # microbatches per step, see Loss; ours
  optim: OptimConfig
  guard: GuardConfig = dataclasses.field(default_factory=GuardConfig)
  mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
  evals: dict[str, Any]  # a section for each evaluation, by its name

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.type is int and field.name != "seed":
        require(value > 0, f"{field.name}: {value} must be positive")
    require(
      self.batch_size > 1,
      "batch_size: 1 is too few rows for a loss of pairs "
      "or a mean over a batch; use 2 or more",
    )
    require(0 <= self.seed < 2**32, f"seed: {self.seed} not in [0, 2**32)")

  def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a training batch."""
    objective = self.make_objective()
    return objective.rows.spec(self.clip, self.text, objective.mask, self.batch_size)

  def make_objective(self, **compute: Any) -> objectives.Objective:
    """The objective; `compute` overrides fields of `Compute`."""
    return objectives.build(self.objective, self.clip, self.text, self.mask, **compute)

  def parts(self) -> "Parts":
    """The parts of its training; raises ConfigError if it cannot be trained."""
    objective, spec = self.make_objective(), self.spec()
    check_weights(self.loss_weights, objective)
    params = nn.unbox(state_lib.abstract_params(objective, spec))
    layers_above = getattr(objective.model, "layers_above", None)
    optimizer = optim.make(
      self.optim, self.steps, params, layers_above, objective.compute.dtype
    )
    return Parts(self, objective, spec, optimizer)

  def flops(self) -> float:
    """FLOPs of a step's loss and gradient, over all devices, without recomputation."""
    # A jaxpr does not show what is inside an attention kernel.
    objective = self.make_objective(remat="none", attention="xla")
    params = nn.unbox(state_lib.abstract_params(objective, self.spec()))
    teacher, key = objective.teacher_params(params), jax.random.key(0)
    loss = Loss(objective, self.loss_weights)
    return flops.count_flops(loss.gradient, params, teacher, self.spec(), key)


def with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
  """The complete config: the dataclasses' defaults for keys that `values` lacks."""
  full = complete(TrainConfig, values)
  fill_in = dict(objective=objectives.with_defaults, evals=evaluators.with_defaults)
  return full | {key: fill(full[key]) for key, fill in fill_in.items() if key in full}


def comments(values: Mapping[str, Any]) -> dict[str, str]:
  """Dotted key of a config -> comment of the dataclass field that reads it."""
  sections = {"objective.": objectives.config_class(values.get("objective"))}
  for name, section in dict(values.get("evals", {})).items():
    sections[f"evals.{name}."] = evaluators.config_class(section)
  notes = config_help.field_comments(TrainConfig, values=values)
  for prefix, cls in sections.items():
    section = values
    for name in prefix.removesuffix(".").split("."):
      section = section.get(name, {})
    notes |= config_help.field_comments(cls, prefix, section) if cls else {}
  for name in values.get("evals", {}):
    notes[f"evals.{name}.kind"] = " | ".join(evaluators.kinds())
  return notes


@dataclasses.dataclass(frozen=True)
class Parts:
  """The parts of a training; only `init` and the step make arrays."""

  config: TrainConfig
  objective: objectives.Objective
  spec: dict[str, jax.ShapeDtypeStruct]  # of a batch
  optimizer: optax.GradientTransformation

  @property
  def _optional(self) -> tuple[bool, int]:
    """Optional fields of the state: (has an EMA, steps of loss history)."""
    return self.config.optim.ema_decay > 0, self.config.guard.history

  def check_batches(self, mesh: Mesh | AbstractMesh) -> None:
    """Checks that batches are of whole groups and can be cut for devices.

    Raises:
      ConfigError: they cannot; it names sizes that can.
    """
    c, objective = self.config, self.objective
    cut, whole = self._cut, objective.batch_group
    sharding.check_batch_size(c.batch_size, mesh, "config.batch_size", *cut, whole)
    repeats, group = c.data.repeats, objective.row_group
    require(
      not objective.mixed or group % (2 * repeats) == 0,
      f"config.objective.mix.group: {group} is not a multiple of {2 * repeats}, twice "
      f"config.data.repeats: clips would be mixed with clips of their own record; use "
      f"{2 * repeats}",
    )

  def smallest_batch(self, mesh: Mesh | AbstractMesh) -> int:
    """The number of rows that batch sizes are multiples of."""
    return sharding.smallest_batch(mesh, *self._cut, self.objective.batch_group[0])

  @property
  def _cut(self) -> tuple[int, int]:
    """(microbatches, successive rows that they may not separate)."""
    micro = self.config.micro_batches
    return micro, self.objective.row_group if micro > 1 else 1

  def abstract(self, mesh: Mesh | AbstractMesh) -> tuple[TrainState, TrainState]:
    """(shapes of the state, its shardings)."""
    parts = self.objective, self.optimizer, self.spec
    return state_lib.abstract(*parts, mesh, *self._optional)

  def init(self, mesh: Mesh) -> TrainState:
    """The initial state, with random parameters."""
    parts = self.objective, self.optimizer, self.spec
    return state_lib.init(*parts, mesh, self.config.seed, *self._optional)[0]

  def loss(self, mesh: Mesh) -> Loss:
    """The training loss."""
    c = self.config
    return Loss(self.objective, c.loss_weights, c.contrastive, c.micro_batches, mesh)

  def train_step(self, mesh: Mesh) -> Callable:
    """One jitted step, (state, batch) to (state, metrics)."""
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
