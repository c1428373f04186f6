"""The interface of objectives, which the training step and the evaluators call.

An objective is one file in this folder with four parts: a docstring that states which
values are the paper's, a linen module, a forward function, and
`build(config, clip, text, mask) -> Objective` with a dataclass `Config` for section
`objective` of the config. No other file depends on it.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Int32

from vtr_jax import objectives
from vtr_jax.core.batch import Batch, ClipSpec, MaskSpec, TextSpec
from vtr_jax.core.config import choose, complete, read
from vtr_jax.core.errors import ConfigError
from vtr_jax.models.layers import Compute
from vtr_jax.objectives.teacher import Teacher

Params = Mapping[str, Any]


class Forward(NamedTuple):
  """Output of a training pass, from which the step computes the loss."""

  video: Float[Array, "b e"]  # unit norm, for the contrastive term
  text: Float[Array, "b e"]  # unit norm, text[i] describes video[i]
  scale: Float[Array, ""] | float  # 1 / temperature
  terms: dict[str, Float[Array, ""]]  # all other loss terms, means over the batch


class Reconstruction(NamedTuple):
  """Predictions for masked tubelets and tokens."""

  pixels: Float[Array, "b m p"]  # RGB in [0, 1] of the masked tubelets
  word_ids: Int32[Array, "b l"] | None  # most likely token at every position


class VideoFeatures(NamedTuple):
  """Features of unmasked clips before any projection, for probes."""

  pooled: Float[Array, "b d"]  # pooled as for the embedding
  tokens: Float[Array, "b n d"]  # all tokens; class tokens first


@dataclasses.dataclass(frozen=True)
class Objective:
  """The only fields that the step and the evaluators use."""

  model: nn.Module
  mask: MaskSpec  # how the loader masks
  compute: Compute
  init: Callable[[jax.Array, Batch], Any]  # (key, batch) -> boxed params
  # (params, teacher's parameters or None, batch, key)
  forward: Callable[[Params, Params | None, Batch, jax.Array], Forward]
  embed_video: Callable[[Params, Batch], Float[Array, "b e"]]  # of unmasked clips
  embed_text: Callable[[Params, Batch], Float[Array, "b e"]]  # of unmasked captions
  terms: tuple[str, ...]  # names in Forward.terms
  # matching score of video[i] and text[i], for re-ranking
  match: Callable[[Params, Batch], Float[Array, " b"]] | None = None
  reconstruct: Callable[[Params, Batch], Reconstruction] | None = None
  # embed_video before normalisation, for means over several clips of one video
  encode_video: Callable[[Params, Batch], Float[Array, "b e"]] | None = None
  # unit-norm embeddings of each tubelet and of each text token, for figures
  embed_patches: Callable[[Params, Batch], Float[Array, "b n e"]] | None = None
  embed_tokens: Callable[[Params, Batch], Float[Array, "b l e"]] | None = None
  video_features: Callable[[Params, Batch], VideoFeatures] | None = None
  teacher: Teacher | None = None

  def teacher_params(self, params: Any) -> Any:
    """The teacher's part of `params` or a tree of its structure; None = no teacher."""
    return self.teacher.pick(params) if self.teacher else None


def initializer(model: nn.Module) -> Callable[[jax.Array, Batch], Any]:
  """(key, batch) -> boxed parameters, for models whose input is a batch."""

  def init(key: jax.Array, batch: Batch) -> Any:
    params, dropout = jax.random.split(key)
    return model.init({"params": params, "dropout": dropout}, batch)["params"]

  return init


def apply(model: nn.Module, params: Params, *args: Any, **kwargs: Any) -> Any:
  """`model.apply` without mutable collections, so that it returns the output alone."""
  return model.apply({"params": params}, *args, **kwargs)


def method(model: nn.Module, name: str) -> Callable[[Params, Batch], Any]:
  """(params, batch) -> `model.name(batch)`, for the functions of an Objective."""
  return lambda params, batch: apply(model, params, batch, method=name)


def features_of(model: nn.Module) -> Callable[[Params, Batch], VideoFeatures]:
  """(params, batch) -> features, for models whose `video_features` returns a pair."""
  features = method(model, "video_features")
  return lambda params, batch: VideoFeatures(*features(params, batch))


# Files of this folder that are shared by objectives.
_SHARED = {"base", "contrastive", "losses", "teacher"}


def names() -> list[str]:
  """Names of all objectives: the files of this folder except shared ones."""
  modules = {m.name for m in pkgutil.iter_modules(objectives.__path__)}
  return sorted(modules - _SHARED)


def build(
  values: Mapping[str, Any],
  clip: ClipSpec,
  text: TextSpec,
  mask: MaskSpec,
  **compute: Any,
) -> Objective:
  """Builds the objective of section `objective` of the config.

  Args:
    values: the section; its key `name` selects the objective.
    clip: of the config, as `text` and `mask`.
    text: max_length and vocabulary.
    mask: how the loader masks.
    **compute: fields of `Compute` to override.

  Raises:
    ConfigError: the name is unknown, or a key of its section is wrong.
  """
  values = dict(values)
  name = values.pop("name", None)
  if not isinstance(name, str):
    raise ConfigError(f"config.objective.name: missing; one of {', '.join(names())}")
  choose(name, names(), "config.objective.name")
  module = _module(name)
  config = read(module.Config, values, "config.objective")
  if compute:
    compute_config = dataclasses.replace(config.compute, **compute)
    config = dataclasses.replace(config, compute=compute_config)
  return module.build(config, clip, text, mask)


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
