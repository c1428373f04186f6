"""The interface of objectives, which the training step and the evaluators call.

An objective is one file in this folder with four parts: a docstring that states which
values are the paper's, a linen module, a forward function, and
`build(config, clip, text, mask) -> Objective` with a dataclass `Config` for section
`objective` of the config. No other file depends on it.
"""

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from vtr_jax import objectives
from vtr_jax.core import precision
from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.batch import Batch, ClipSpec, MaskSpec, TextSpec
from vtr_jax.core.config import choose, complete, read
from vtr_jax.core.errors import ConfigError
from vtr_jax.data.examples import CaptionRows, Rows
from vtr_jax.models.layers import Compute
from vtr_jax.objectives.losses import Term
from vtr_jax.objectives.teacher import Teacher

Params = Mapping[str, Any]


class Pairs(NamedTuple):
  """The embeddings of one contrastive term; the step contrasts the global batch."""

  a: Float[Array, "b e"]  # unit norm
  b: Float[Array, "b e"]  # unit norm; b[i] belongs to a[i]
  scale: Float[Array, ""] | float  # 1 / temperature
  valid: Bool[AnyArray, " b"]  # rows that count, as anchors and as negatives


class Outputs(NamedTuple):
  """Output of a training pass, from which the step computes the loss."""

  terms: dict[str, Term]
  pairs: dict[str, Pairs]  # "vtc" is that of videos (a) and texts (b)


class Reconstruction(NamedTuple):
  """Predictions for masked tubelets and tokens."""

  pixels: Float[Array, "b m p"]  # RGB in [0, 1] of the masked tubelets
  word_ids: Int32[Array, "b l"] | None  # most likely token at every position


@dataclasses.dataclass(frozen=True, eq=False)  # a constant of jitted functions
class Objective:
  """The only fields that the step and the evaluators use.

  Names in `predict`, each a function of (parameters, batch); evaluators say which they
  need. All but `reconstruct` read unmasked clips and captions.

    embed_video     [b e] unit norm
    embed_text      [b e] unit norm
    encode_video    [b e] embed_video before normalisation, for means over clips
    embed_patches   [b n e] unit norm, of each tubelet, for figures
    embed_tokens    [b l e] unit norm, of each text token, for figures
    video_features  pooling.VideoFeatures, for probes
    logits          [b v] of the classes of a classifier
    match           [b] log-odds that text[i] describes video[i], read together, for
                    re-ranking
    answers         [b v] of the answers to question[i] about video[i]; answers.py
    reconstruct     Reconstruction of a masked batch
  """

  model: nn.Module
  mask: MaskSpec  # how the loader masks
  compute: Compute
  init: Callable[[jax.Array, Batch], Any]  # (key, batch) -> boxed params
  # (params, teacher's parameters or None, batch, key of the step)
  forward: Callable[[Params, Params | None, Batch, jax.Array], Outputs]
  terms: tuple[str, ...]  # names in Outputs.terms
  pairs: tuple[str, ...]  # names in Outputs.pairs
  predict: Mapping[str, Callable[[Params, Batch], Any]]
  # (pairs of the full batch, the full batch, key) -> the batch, with what `forward` of
  # some of its rows reads of other rows; None = nothing. Called for microbatches alone;
  # before that, `forward` of some rows must give their pairs, whatever its terms are.
  join_rows: Callable[[dict[str, Pairs], Batch, jax.Array], Batch] | None = None
  row_group: int = 1  # successive rows that a microbatch may not separate
  # (rows, key): a batch is of whole groups of so many successive rows, by that key
  batch_group: tuple[int, str] = (1, "")
  mixed: bool = False  # whether rows of a `row_group` are mixed with one another
  match_weight: float = 0.0  # of `match` in re-ranking, see `rescore.matching`
  teacher: Teacher | None = None
  rows: Rows = CaptionRows()  # what a training row holds  # noqa: RUF009
  reads_text: bool = True  # whether a run of it needs a tokenizer
  classes: tuple[str, ...] = ()  # names of `logits`, in their order
  unnamed: int = 0  # number of `logits` whose classes have no names; 0 = none

  def teacher_params(self, params: Any) -> Any:
    """The teacher's part of `params` or a tree of its structure; None = no teacher."""
    return self.teacher.pick(params) if self.teacher else None

  @property
  def num_classes(self) -> int:
    """Number of `logits`; 0 = not of classes."""
    return len(self.classes) or self.unnamed

  @property
  def loss_names(self) -> tuple[str, ...]:
    """All loss terms, the contrastive ones first."""
    return (*self.pairs, *self.terms)

  def prediction(
    self, name: str, where: str, cure: str = ""
  ) -> Callable[[Params, Batch], Any]:
    """`predict[name]`.

    Raises:
      ConfigError: the objective does not have it; `where` needs it. Ends in `cure`.
    """
    if name not in self.predict:
      offered = ", ".join(sorted(self.predict)) or "nothing"
      raise ConfigError(
        f"{where}: needs {name}, which this objective does not predict ({offered})"
        + cure
      )
    return self.predict[name]


def initializer(model: nn.Module) -> Callable[[jax.Array, Batch], Any]:
  """(key, batch) -> boxed parameters, for models whose input is a batch."""

  def init(key: jax.Array, batch: Batch) -> Any:
    params, dropout = jax.random.split(key)
    return model.init({"params": params, "dropout": dropout}, batch)["params"]

  return init


def apply(model: nn.Module, params: Params, *args: Any, **kwargs: Any) -> Any:
  """`model.apply` without mutable collections, so that it returns the output alone."""
  return model.apply({"params": params}, *args, **kwargs)


def dropout(key: jax.Array, batch: Batch) -> dict[str, jax.Array]:
  """Random streams of `model.apply`: of dropout, other ones in each microbatch."""
  return {"dropout": jax.random.fold_in(key, batch["row"][0])}


def methods(model: nn.Module, *names: str) -> dict[str, Callable[[Params, Batch], Any]]:
  """Predictions by name that are methods of the model, whose argument is a batch."""

  def call(name: str, params: Params, batch: Batch) -> Any:
    return apply(model, params, batch, method=name)

  return {name: functools.partial(call, name) for name in names}


def probabilities(
  logits: Callable[[Params, Batch], Any],
) -> Callable[[Params, Batch], Float[Array, "b v"]]:
  """The softmax of the prediction `logits`."""
  return lambda params, batch: jax.nn.softmax(jnp.float32(logits(params, batch)))


# Files of this folder that are shared by objectives.
_SHARED = {"base", "contrastive", "draws", "losses", "teacher"}


def names() -> list[str]:
  """Names of all objectives: the files of this folder except shared ones."""
  modules = {m.name for m in pkgutil.iter_modules(objectives.__path__)}
  return sorted(modules - _SHARED)


def build(
  values: Mapping[str, Any],
  clip: ClipSpec,
  text: TextSpec,
  mask: MaskSpec,
  *,
  where: str = "config.objective",
  **compute: Any,
) -> Objective:
  """Builds the objective of section `objective` of the config.

  Args:
    values: the section; its key `name` selects the objective.
    clip: of the config, as `text` and `mask`.
    text: max_length and vocabulary.
    mask: how the loader masks.
    where: the section's key.
    **compute: fields of `Compute` to override; its dtype "auto" becomes this machine's.

  Raises:
    ConfigError: the name is unknown, or a key of its section is wrong.
  """
  values = dict(values)
  name = values.pop("name", None)
  if not isinstance(name, str):
    raise ConfigError(f"{where}.name: missing; one of {', '.join(names())}")
  choose(name, names(), f"{where}.name")
  module = _module(name)
  config = read(module.Config, values, where)
  chosen = dataclasses.replace(config.compute, **compute)
  if chosen.dtype == "auto":
    chosen = dataclasses.replace(chosen, dtype=precision.fastest())
  return module.build(dataclasses.replace(config, compute=chosen), clip, text, mask)


def from_data(
  values: Any, labels: Callable[[Callable[[str, str], list[str]]], list[str]]
) -> Any:
  """Section `objective` with what its file's `from_data` adds from the training data.

  Args:
    values: the section.
    labels: calls a function of (directory, split), such as `Rows.labels`, for each part
      of the training data, and joins what it returns.

  Raises:
    ConfigError: the data do not fit the section.
  """
  name = values.get("name") if isinstance(values, Mapping) else None
  add = getattr(_module(name), "from_data", None) if name in names() else None
  return add(dict(values), labels) if add else values


def with_dtype(values: Any, choose_dtype: Callable[[], str]) -> Any:
  """Section `objective` whose activations have a chosen dtype if it says "auto"."""
  compute = values.get("compute") if isinstance(values, Mapping) else None
  if not isinstance(compute, Mapping) or compute.get("dtype") != "auto":
    return values
  return {**values, "compute": {**compute, "dtype": choose_dtype()}}


def config_class(values: Any) -> type | None:
  """The dataclass that reads section `objective`; None if its name is not known."""
  name = values.get("name") if isinstance(values, Mapping) else None
  return _module(name).Config if name in names() else None


def with_defaults(values: Any) -> Any:
  """Section `objective` with the defaults of its own dataclass."""
  cls = config_class(values)
  return complete(cls, values) if cls else values


def _module(name: str) -> Any:
  return importlib.import_module(f"vtr_jax.objectives.{name}")
