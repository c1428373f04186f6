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
from vtr_jax.models.layers import VIT, BlockConfig, TransformerConfig
from vtr_jax.models.text_tower import POST_NORM

_SIZES = ("width", "depth", "mlp_dim")


@dataclasses.dataclass(frozen=True)
class Facts:
  """Statements of a folder, under the names of our config."""

  source: pathlib.Path  # the file that states most of them, for messages
  kind: str  # of weights, see registry.py
  # video | text | decoder -> keys of `TransformerConfig`
  towers: Mapping[str, Mapping[str, Any]]
  clip: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of `ClipSpec`
  vocab_size: int = 0  # rows of token embeddings; 0 = not stated
  also: tuple[str, ...] = ()  # other kinds by which the same weights may be read
  post_norm: bool = False  # of the text tower: a LayerNorm after each sum
  pool: str = ""  # cls | mean, of a sentence encoder
  max_length: int = 0  # tokens that a sentence encoder reads; 0 = not stated

  def expect(self, kind: str) -> None:
    """Raises WeightsError if weights of a kind cannot be what the folder states."""
    if kind not in (self.kind, *self.also):
      raise WeightsError(
        f"{self.source}: states weights of kind {self.kind!r}, not {kind!r}; correct "
        "--from (or init_from), or keep the weights in a folder of their own"
      )

  def apply(self, config: dict[str, Any]) -> None:
    """Sets heads, GELU, epsilon, frames and colours in a config of the file's sizes.

    Raises:
      WeightsError: a size that the folder states is not that of the arrays.
    """
    objective, text = config["objective"], config["text"]
    for tower, stated in self.towers.items():
      name = _name(tower, objective)
      if not objective.get(name):
        continue
      section = objective[name]
      for key in _SIZES:
        self._compare(f"{name}.{key}", stated.get(key), section[key])
      values = objective.get("arch", ""), objective.get("text_norm", "")
      kind = _architecture(name, *values)
      section["num_heads"] = stated["num_heads"]
      section["gelu"] = "" if stated["gelu"] == kind.gelu else stated["gelu"]
      epsilon = stated.get("epsilon", kind.epsilon)
      section["epsilon"] = 0.0 if epsilon == kind.epsilon else epsilon
    if objective.get("text") and self.pool:
      objective["pool"] = self.pool
      text["max_length"] = self.max_length or text["max_length"]
    if self.vocab_size and "text" in self.towers:
      # CLIP's and SigLIP's get one more row, for a mask token.
      words = text["vocab_size"]
      self._compare("text.vocab_size", self.vocab_size, words, words - 1)
    # SimVTP's positions are fixed: its arrays do not tell the size of images.
    learned = "encoder" not in objective
    for key in ("tubelet_size", *(["image_size"] if learned else [])):
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
      WeightsError: it has other sizes, heads or GELU than the folder states; names all
        keys to set. Depths may differ, as the report on the weights tells.
    """
    warnings, wrong = [], []
    for tower, stated in self.towers.items():
      name = _name(tower, vars(objective))
      section = getattr(objective, name, None)
      if not isinstance(section, TransformerConfig):
        continue
      norm = getattr(objective, "text_norm", "")
      kind = section.adapted(_architecture(name, getattr(objective, "arch", ""), norm))
      for key in ("width", "mlp_dim", "num_heads", "gelu"):
        here = kind.gelu if key == "gelu" else getattr(section, key)
        if stated[key] != here:
          wrong.append(f"config.objective.{name}.{key}={stated[key]} (it is {here})")
      if tower == "text" and self.post_norm and norm == "pre":
        wrong.append("config.objective.text_norm=post (it is pre)")
      epsilon = stated.get("epsilon", kind.epsilon)
      if epsilon != kind.epsilon:
        warnings.append(
          f"config.objective.{name}.epsilon: {kind.epsilon:g} is used, "
          f"{self.source} states {epsilon:g}"
        )
    if wrong:
      raise WeightsError(
        f"{self.source}: the weights were trained with other settings; set "
        + ", ".join(wrong)
      )
    pool = getattr(objective, "pool", "")
    if self.pool and hasattr(objective, "text") and pool != self.pool:
      warnings.append(
        f"config.objective.pool: {pool!r} is used, {self.source.parent} states "
        f"{self.pool!r}"
      )
    for key in ("mean", "std"):
      here = tuple(getattr(clip, key))
      if tuple(self.clip.get(key, here)) != here:
        warnings.append(
          f"config.clip.{key}: {here} is used, {self.source.parent} states "
          f"{tuple(self.clip[key])}"
        )
    return warnings


def _name(tower: str, objective: Mapping[str, Any]) -> str:
  """The section of a tower: SimVTP's video tower is its encoder."""
  return "encoder" if tower == "video" and "encoder" in objective else tower


def _architecture(name: str, arch: str, text_norm: str) -> BlockConfig:
  """Blocks of a tower's section of that name, before the section changes them."""
  if name in ("encoder", "decoder"):
    return VIT
  return POST_NORM if name == "text" and text_norm == "post" else ARCHS[arch].kind
