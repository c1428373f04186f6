"""What a checkpoint's folder states about its weights, under the names of our config.

The arrays of a file determine sizes, but not the number of heads, the kind of GELU, the
epsilon of LayerNorms or the colours; see hub_configs.py for where they are stated.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from vtr_jax.core.errors import WeightsError
from vtr_jax.models.config import ARCHS
from vtr_jax.models.layers import VIT, BlockConfig
from vtr_jax.models.text_tower import POST_NORM

_SIZES = ("width", "depth", "mlp_dim")
# Kinds that can be read from the same folder.
_SAME = (
  {"bert", "bert_words", "sentence_transformers"},
  {"distilbert", "sentence_transformers"},
  {"clip", "open_clip"},
  {"siglip", "siglip2"},
)


@dataclasses.dataclass(frozen=True)
class Facts:
  """Statements of a folder, under the names of our config."""

  source: pathlib.Path  # the file that states most of them, for messages
  kind: str  # of weights, see registry.py
  # video | text | decoder -> keys of `TransformerConfig`
  towers: Mapping[str, Mapping[str, Any]]
  clip: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of `ClipSpec`
  vocab_size: int = 0  # rows of token embeddings; 0 = not stated
  pool: str = ""  # cls | mean, of a sentence encoder

  def expect(self, kind: str) -> None:
    """Raises WeightsError if weights of a kind cannot be what the folder states."""
    if not any({kind, self.kind} <= same for same in (*_SAME, {kind})):
      raise WeightsError(
        f"{self.source}: states weights of kind {self.kind!r}, not {kind!r}; correct "
        "--from (or init_from), or keep the weights in a folder of their own"
      )

  def apply(self, config: dict[str, Any]) -> None:
    """Sets heads, GELU, epsilon, frames and colours in a config of the file's sizes.

    Raises:
      WeightsError: a size that the folder states is not that of the arrays.
    """
    for tower, stated in self.towers.items():
      name, section = _section(config["objective"], tower)
      if not section:
        continue
      for key in _SIZES:
        self._compare(f"{name}.{key}", stated.get(key), section[key])
      kind = _architecture(config["objective"], name)
      section["num_heads"] = stated["num_heads"]
      section["gelu"] = "" if stated["gelu"] == kind.gelu else stated["gelu"]
      epsilon = stated.get("epsilon", kind.epsilon)
      section["epsilon"] = 0.0 if epsilon == kind.epsilon else epsilon
    if self.pool:
      config["objective"]["pool"] = self.pool
    words = config["text"]["vocab_size"]
    if self.vocab_size and "text" in self.towers:
      # CLIP's and SigLIP's get one more row, for a mask token.
      self._compare("text.vocab_size", self.vocab_size, words, words - 1)
    # SimVTP's positions are fixed: its arrays do not tell the size of images.
    sizes = [
      "tubelet_size",
      *([] if "encoder" in config["objective"] else ["image_size"]),
    ]
    for key in sizes:
      if key in self.clip:
        self._compare(f"clip.{key}", self.clip[key], config["clip"][key])
    config["clip"].update(self.clip)

  def _compare(self, what: str, stated: Any, *found: Any) -> None:
    if stated is not None and stated not in found:
      raise WeightsError(
        f"{self.source}: states {what} = {stated}, but the arrays of the weights have "
        f"{found[0]}: it belongs to another model; copy both files again, or keep the "
        "weights in a folder of their own"
      )

  def check(self, objective: Any, clip: Any) -> list[str]:
    """Checks a model that is to get the weights; returns warnings.

    Args:
      objective: the objective's config, with a section for each tower.
      clip: the `ClipSpec`.

    Raises:
      WeightsError: its heads or its GELU are not those that the folder states.
    """
    warnings = []
    for tower, stated in self.towers.items():
      name, section = _section(objective, tower)
      if section is None or not hasattr(section, "adapted"):
        continue
      kind = section.adapted(_architecture(objective, name))
      for key, here in (("num_heads", section.num_heads), ("gelu", kind.gelu)):
        if stated[key] != here:
          raise WeightsError(
            f"config.objective.{name}.{key}: {here!r}, but {self.source} states "
            f"{stated[key]!r}, which the weights were trained with; set it"
          )
      epsilon = stated.get("epsilon", kind.epsilon)
      if epsilon != kind.epsilon:
        warnings.append(
          f"config.objective.{name}.epsilon: {kind.epsilon:g} is used, "
          f"{self.source} states {epsilon:g}"
        )
    for key in ("mean", "std"):
      here = tuple(getattr(clip, key))
      if tuple(self.clip.get(key, here)) != here:
        warnings.append(
          f"config.clip.{key}: {here} is used, {self.source.parent} states "
          f"{tuple(self.clip[key])}"
        )
    return warnings


def _section(objective: Any, tower: str) -> tuple[str, Any]:
  """(name, section) of a tower in an objective's config, a dict or a dataclass."""
  has = (
    objective.__contains__
    if isinstance(objective, Mapping)
    else (lambda key: hasattr(objective, key))
  )
  name = "encoder" if tower == "video" and has("encoder") else tower
  if not has(name):
    return name, None
  return name, _get(objective, name)


def _get(section: Any, key: str) -> Any:
  return section[key] if isinstance(section, Mapping) else getattr(section, key)


def _architecture(objective: Any, name: str) -> BlockConfig:
  """Blocks of a tower of that name, before its section changes them."""
  if name in ("encoder", "decoder"):
    return VIT
  if name == "text" and _get(objective, "text_norm") == "post":
    return POST_NORM
  return ARCHS[_get(objective, "arch")].kind
