"""What an evaluator is given, and how one is found.

An evaluator is a file beside this one with a dataclass `Config` for its section of
`evals` and a class `Evaluator(config, context)`. Evaluators call the objective's
functions and never learn which objective ran.
"""

import dataclasses
import importlib
import pathlib
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from vtr_jax import evaluators, sharding
from vtr_jax.batch import HOST_KEYS, ClipSpec, TextSpec
from vtr_jax.config import choose, read
from vtr_jax.data import loader
from vtr_jax.data.examples import DataConfig
from vtr_jax.data.sources import Split
from vtr_jax.data.text import Tokenizer
from vtr_jax.errors import ConfigError
from vtr_jax.objectives.base import Objective, Params


@dataclasses.dataclass(frozen=True)
class Context:
  """Everything of a run that an evaluator may need."""

  objective: Objective
  clip: ClipSpec
  text: TextSpec
  data: DataConfig  # of training; evaluators open other splits of the same data
  tokenizer: Tokenizer
  mesh: Mesh
  batch_size: int  # global rows per evaluation batch


class Evaluator(Protocol):
  """`every` steps, and at the end of training, `run` gives numbers."""

  every: int  # 0 = at the end only

  def run(self, params: Params) -> dict[str, float]:
    """Numbers by name, such as "t2v/R@1"."""
    ...

  def report(self) -> str:
    """The last run as text for people."""
    ...

  def protocol(self) -> dict[str, Any]:
    """What a number means: split and its fingerprint, counts, rules."""
    ...

  def draw(self, directory: pathlib.Path, name: str) -> None:
    """Pictures of the last run."""
    ...


def kinds() -> list[str]:
  """Evaluators that exist: the files beside this one."""
  return sorted({m.name for m in pkgutil.iter_modules(evaluators.__path__)} - {"base"})


def check(sections: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
  """Sections of `evals` to (kind, config); no data or device is touched."""
  checked = {}
  for name, section in sections.items():
    if not isinstance(section, Mapping):
      raise ConfigError(f"config.evals.{name}: expected a group of keys")
    values = dict(section)
    kind = values.pop("kind", "")
    if not isinstance(kind, str):
      raise ConfigError(f"config.evals.{name}.kind: expected a name, got {kind!r}")
    choose(kind, kinds(), f"config.evals.{name}.kind")
    module = importlib.import_module(f"vtr_jax.evaluators.{kind}")
    checked[name] = (kind, read(module.Config, values, f"config.evals.{name}"))
  return checked


def build(
  checked: Mapping[str, tuple[str, Any]], context: Context
) -> dict[str, Evaluator]:
  """Opens the evaluators' data."""
  modules = {k: importlib.import_module(f"vtr_jax.evaluators.{k}") for k in kinds()}
  return {n: modules[k].Evaluator(c, context) for n, (k, c) in checked.items()}


class OnDevices:
  """An objective's function over batches; every host gets every row."""

  def __init__(self, function: Any, mesh: Mesh):
    self._mesh = mesh
    self._jitted = jax.jit(function, out_shardings=sharding.replicated(mesh))

  def __call__(self, params: Params, batch: Mapping[str, np.ndarray]) -> Any:
    """One global batch; the result's arrays are NumPy."""
    on_device = {k: v for k, v in batch.items() if k not in HOST_KEYS}
    with sharding.scope(self._mesh):
      out = self._jitted(params, sharding.put_batch(on_device, self._mesh))
    return jax.tree.map(np.asarray, out)

  def rows(self, params: Params, batches: Iterable[Mapping], count: int) -> np.ndarray:
    """The first `count` rows over all batches; the last batch is padded."""
    return np.concatenate([self(params, batch) for batch in batches])[:count]


class Embedder:
  """Embeds the videos of a split, and texts; every host gets all of them."""

  def __init__(self, context: Context):
    self._context = context
    self._video = OnDevices(context.objective.embed_video, context.mesh)
    self._text = OnDevices(context.objective.embed_text, context.mesh)
    self._share = dict(host=jax.process_index(), num_hosts=jax.process_count())

  def videos(self, params: Params, source: Split) -> Float[np.ndarray, "v e"]:
    c = self._context
    batches = loader.eval_videos(
      source, c.data, c.clip, c.batch_size, workers=0, **self._share
    )
    return self._video.rows(params, batches, len(source))

  def texts(self, params: Params, texts: Sequence[str]) -> Float[np.ndarray, "t e"]:
    c = self._context
    batches = loader.eval_texts(texts, c.text, c.tokenizer, c.batch_size, **self._share)
    return self._text.rows(params, batches, len(texts))


def host_rows(rows: int) -> slice:
  """This host's part of a global batch."""
  share = rows // jax.process_count()
  return slice(jax.process_index() * share, (jax.process_index() + 1) * share)
