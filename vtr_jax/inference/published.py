"""Published weights in memory: a file, or a hub's folder, as config and parameters."""

import copy
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from vtr_jax.core import config as config_lib
from vtr_jax.core import io
from vtr_jax.core.errors import DataError, WeightsError
from vtr_jax.data.tokenizers import base as tokenizers
from vtr_jax.objectives.base import Objective
from vtr_jax.train import state, workdir
from vtr_jax.train.config import TrainConfig
from vtr_jax.weights import files, infer, match, registry, save, snapshot, stacks
from vtr_jax.weights.facts import Facts

_EMBEDDING = {"video_tower", "video_proj", "text_tower", "text_proj", "encoder"}
_EMBEDDING |= {"text_embed", "video_embed"}
WEIGHTS = "model.safetensors"  # of a folder that `vtr_jax.export` writes


@dataclasses.dataclass(frozen=True)
class Published:
  """Weights that were read, and the model that they are of; not checked yet."""

  values: dict[str, Any]  # the complete config
  config: TrainConfig
  objective: Objective
  single: Mapping[str, Any]  # parameters of the file by path, layers not stacked
  report: match.Report  # on every key of the file
  vocabulary: pathlib.Path | None = None  # the folder's, whether it fits or not
  facts: Facts | None = None  # what the folder states
  assumed: tuple[str, ...] = ()  # what it does not state
  step: int = 0

  def check(self) -> list[str]:
    """Warnings.

    Raises:
      WeightsError: a key is missing or unused, or the folder contradicts the config.
    """
    self.report.check()
    model = self.objective.model
    stated = self.facts.check(model.config, model.clip) if self.facts else []
    return [*stated, *self.assumed]

  def lacking(self) -> list[str]:
    """Modules that embed and of which the file has nothing."""
    of = lambda paths: {path.partition("/")[0] for path in paths}
    return sorted((of(self.report.initialised) - of(self.single)) & _EMBEDDING)

  def params(self) -> dict[str, Any]:
    """All parameters by path; those that the file lacks have their initial values."""
    spec = self.config.spec()
    expected = _expected(self.objective, spec)
    params = stacks.join(self.single, expected)
    missing = set(expected) - set(params)
    return params | _initialise(self.objective, spec, missing, self.config.seed)

  def tokenizer(self) -> tuple[str, list[str]]:
    """(the vocabulary's path if it fits the model, else "", warnings)."""
    if not self.vocabulary:
      return "", []
    path, text = str(self.vocabulary), self.config.text
    try:
      tokenizers.check(tokenizers.load(path, text.t5_rules), text)
    except DataError as e:
      return "", [str(e)]
    return path, []


def read(
  kind: str,
  place: str,
  values: Mapping[str, Any] | None = None,
  allow: tuple[str, ...] = (),
  heads: Mapping[str, int] | None = None,
) -> Published:
  """Reads weights.

  Args:
    kind: one of weights.registry.SOURCES; "" = as the folder's config states.
    place: safetensors, .npz, a PyTorch file, or a folder, see weights/snapshot.py; or a
      folder that `vtr_jax.export` wrote under this package's names.
    values: a complete config; None = the kind's recipe with the file's sizes.
    allow: see weights/match.py.
    heads: tower -> number of attention heads, where no file states it.

  Raises:
    WeightsError: the file cannot be read, or is not of the kind.
    ConfigError: the config is not valid.
  """
  header = _header(pathlib.Path(place))
  if not kind and values is None and header.get("layout") == save.OWN:
    return _own(pathlib.Path(place), _config(header))
  if kind:  # before anything is read
    registry.find(kind)
  found = snapshot.find(place, kind)
  facts = found.facts
  if facts:
    kind = kind or facts.kind
    facts.expect(kind)
  elif not kind:
    raise WeightsError(
      f"--from: missing, and no config.json at {place} states the kind of weights; one "
      f"of {', '.join(registry.SOURCES)}"
    )
  source = registry.find(kind)
  arrays = found.read()
  inferred = values is None
  if values is None:
    recipe = infer.recipe(source)
    values = infer.infer(recipe, kind, source, arrays)
    values["name"] = kind
    if facts:
      facts.apply(values)
    if not source.infer:
      stated = facts.towers if facts else {}
      infer.set_heads(values, recipe, heads or {}, stated, place)
  values = copy.deepcopy(dict(values)) | dict(init_from="", evals={})
  c = config_lib.read(TrainConfig, values)
  objective = c.make_objective()
  single, report = match.match(
    f"{kind}:{place}",
    kind,
    source,
    arrays,
    objective.model,
    stacks.shapes(_expected(objective, c.spec())),
    allow,
  )
  assumed = []
  if inferred and not source.infer and not (facts and facts.towers):
    assumed += _assumptions(objective.model.config)
  if kind == "sentence_transformers" and not (facts and facts.pool):
    assumed.append(
      f"pooling is not in the file, assumed {values['objective']['pool']}; if this is "
      "wrong, give the folder with its modules.json"
    )
  own = found.vocabulary, facts, tuple(assumed)
  return Published(values, c, objective, single, report, *own)


def of_folder(folder: pathlib.Path) -> Published | None:
  """The weights of a hub's folder, by `vtr_jax.export` or not; None if it has none.

  Raises:
    WeightsError: as `read`.
    ConfigError: the config does not fit this version.
  """
  header = _header(folder)
  if not header:
    if snapshot.facts(folder):
      return read("", str(folder))
    if (folder / WEIGHTS).is_file():
      files.read(folder / WEIGHTS)  # says whether it is damaged
    return None
  kind = save.layouts().get(header["layout"], "")
  found = read(kind, str(folder), _config(header) if kind else None)
  return dataclasses.replace(found, step=int(header["step"]))


def _config(header: Mapping[str, str]) -> dict[str, Any]:
  return workdir.upgraded(io.mapping(header["config"])) | dict(init_from="", evals={})


def _own(folder: pathlib.Path, values: dict[str, Any]) -> Published:
  """Weights under this package's names."""
  c = config_lib.read(TrainConfig, values)
  objective = c.make_objective()
  path = folder / WEIGHTS
  single = {key.replace(".", "/"): x for key, x in files.read(path).items()}
  shape_of = lambda arrays: {name: tuple(x.shape) for name, x in arrays.items()}
  expected = shape_of(stacks.shapes(_expected(objective, c.spec())))
  found = shape_of(single)
  wrong = [k for k in sorted(found | expected) if found.get(k) != expected.get(k)]
  problems = [f"{k} is {found.get(k)}, not {expected.get(k)}" for k in wrong]
  lines = [
    match.Line(k.replace("/", "."), k.partition("/")[0], "used", found[k], (k,))
    for k in found
  ]
  report = match.Report(str(path), tuple(lines), (), tuple(problems))
  vocabulary = folder / "tokenizer.model"
  own = vocabulary if vocabulary.is_file() else None
  return Published(values, c, objective, single, report, own)


def _header(folder: pathlib.Path) -> dict[str, str]:
  """What `vtr_jax.export` writes in the header of a folder's weights; {} of others."""
  try:
    import safetensors

    with safetensors.safe_open(folder / WEIGHTS, framework="numpy") as file:
      found = file.metadata() or {}
  except Exception:  # missing, damaged, or another format: reported by the reader
    return {}
  return found if {"config", "layout", "step"} <= found.keys() else {}


def _expected(objective: Objective, spec: Any) -> dict[Any, Any]:
  """Shapes of all parameters by path."""
  return flatten_dict(nn.unbox(state.abstract_params(objective, spec)), sep="/")


def _initialise(
  objective: Objective, spec: Any, paths: set[str], seed: int
) -> dict[str, jax.Array]:
  """Initial values of the parameters `paths`; nothing else is computed."""

  @jax.jit
  def initialise(key: jax.Array) -> dict[Any, Any]:
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), spec)
    params = flatten_dict(nn.unbox(objective.init(key, zeros)), sep="/")
    return {path: x for path, x in params.items() if path in paths}

  return initialise(jax.random.key(seed))


def _assumptions(config: Any) -> list[str]:
  """Warnings about settings that no weights file contains."""
  if not getattr(config, "arch", ""):
    return []
  gelu = f"{config.parts.kind.gelu} (arch {config.arch!r})"
  cure = "if this is wrong, give the folder with its config.json, or --config"
  return [f"kind of GELU is not in the file, assumed {gelu}; {cure}"]
