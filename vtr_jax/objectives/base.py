"""What an objective is: a value that the step and the evaluators call.

An objective is one file beside this one with four parts: a docstring that says
which values are the paper's, a linen module, a forward function, and
`build(config, clip, text, mask) -> Objective` with a dataclass `Config` for its
section of the config. Nothing else needs to know of it.
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
from vtr_jax.objectives.teacher import Teacher

Params = Mapping[str, Any]


class Forward(NamedTuple):
  """What a training pass gives to the step, which makes the loss of it."""

  video: Float[Array, "b e"]  # unit norm, for the contrastive term
  text: Float[Array, "b e"]  # unit norm, text[i] belongs to video[i]
  scale: Float[Array, ""] | float  # 1 / temperature
  terms: dict[str, Float[Array, ""]]  # every other loss term, means over the batch


class Reconstruction(NamedTuple):
  """What the model puts in the place of what was hidden, for pictures."""

  pixels: Float[Array, "b m p"]  # RGB in [0, 1] of the hidden tubelets
  word_ids: Int32[Array, "b l"] | None  # the likeliest token at every place


class VideoFeatures(NamedTuple):
  """What the video tower makes of whole clips, before any projection, for probes."""

  pooled: Float[Array, "b d"]  # of each clip, as the model itself pools
  tokens: Float[Array, "b n d"]  # that it pools from; a class token comes first


@dataclasses.dataclass(frozen=True)
class Objective:
  """The step and the evaluators use these fields and nothing else."""

  model: nn.Module  # a linen definition, no state
  mask: MaskSpec  # what the loader hides
  init: Callable[[jax.Array, Batch], Any]  # (key, batch) -> boxed params
  # (params, teacher's parameters or None, batch, key)
  forward: Callable[[Params, Params | None, Batch, jax.Array], Forward]
  embed_video: Callable[[Params, Batch], Float[Array, "b e"]]  # nothing hidden
  embed_text: Callable[[Params, Batch], Float[Array, "b e"]]  # nothing hidden
  terms: tuple[str, ...]  # names in Forward.terms
  # (params, batch) -> [b] how well video[i] and text[i] fit, for re-ranking
  match: Callable[[Params, Batch], Float[Array, " b"]] | None = None
  reconstruct: Callable[[Params, Batch], Reconstruction] | None = None
  # embed_video before normalisation, for means over several clips of one video
  encode_video: Callable[[Params, Batch], Float[Array, "b e"]] | None = None
  # [b n e], [b l e] unit norm, of each tubelet and of each word, for pictures
  embed_patches: Callable[[Params, Batch], Float[Array, "b n e"]] | None = None
  embed_tokens: Callable[[Params, Batch], Float[Array, "b l e"]] | None = None
  video_features: Callable[[Params, Batch], VideoFeatures] | None = None
  teacher: Teacher | None = None  # what is shadowed, and how the shadow follows

  def shadowed(self, params: Any) -> Any:
    """The part of `params`, or of a tree like it, that a teacher shadows, or None."""
    return self.teacher.pick(params) if self.teacher else None


def initializer(model: nn.Module) -> Callable[[jax.Array, Batch], Any]:
  """(key, batch) -> boxed parameters, for models that are called with a batch."""

  def init(key: jax.Array, batch: Batch) -> Any:
    params, dropout = jax.random.split(key)
    return model.init({"params": params, "dropout": dropout}, batch)["params"]

  return init


def method(model: nn.Module, name: str) -> Callable[[Params, Batch], Any]:
  """(params, batch) -> `model.name(batch)`, for the functions of an Objective."""
  return lambda params, batch: model.apply({"params": params}, batch, method=name)


def features_of(model: nn.Module) -> Callable[[Params, Batch], VideoFeatures]:
  """(params, batch) -> features, of a model whose `video_features` gives a pair."""
  found = method(model, "video_features")
  return lambda params, batch: VideoFeatures(*found(params, batch))


# Files of this folder that are shared by objectives and are none themselves.
_SHARED = {"base", "contrastive", "losses", "teacher"}


def names() -> list[str]:
  """Objectives that exist: the files of this folder, shared ones left out."""
  found = [m.name for m in pkgutil.iter_modules(objectives.__path__)]
  return sorted(set(found) - _SHARED)


def build(
  values: Mapping[str, Any], clip: ClipSpec, text: TextSpec, mask: MaskSpec
) -> Objective:
  """Builds the objective that `values.name` names.

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
