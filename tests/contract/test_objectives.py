"""The contract of every file in vtr_jax/objectives; files are found by name."""

import importlib
import json
import re
import shutil

import batches
import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from conftest import ROOT, on_eight_devices

from vtr_jax.core.batch import HOST_KEYS
from vtr_jax.core.config import read
from vtr_jax.data import loader
from vtr_jax.data.tokenizers.base import SentencePiece
from vtr_jax.objectives import base
from vtr_jax.train.config import TrainConfig
from vtr_jax.train.loop import train_and_evaluate

EVERY = pytest.mark.parametrize("name", base.names())
# Of what takes long, the default run has the one that has a teacher.
NIGHTLY = pytest.mark.nightly
ONE = pytest.mark.parametrize(
  "name",
  [n if n == "miles" else pytest.param(n, marks=NIGHTLY) for n in base.names()],
)


# Objectives whose config file has another name: the file, and what comes before
# "smoke" in its variants.
FILES = dict(
  actions=("finetune_actions", "moving_shapes,mac,"),
  answers=("finetune_answers", "moving_shapes,mac,"),
)


def config(name, variant):
  """A variant of an objective's own config file."""
  file, prefix = FILES.get(name, (name, ""))
  return importlib.import_module(f"configs.{file}").get_config(prefix + variant)


def smoke(name, data_dir, **changes):
  """The smoke config of an objective's own file, without evaluation."""
  values = config(name, "smoke").to_dict()
  values["data"]["dir"] = str(data_dir)
  values["optim"]["warmup_steps"] = 0
  return json.loads(json.dumps(values | dict(evals={}, log_every=1) | changes))


@EVERY
def test_loaded_batches_match_the_spec(name, data_dir):
  c = read(TrainConfig, smoke(name, data_dir))
  (model,) = data_dir.glob("moving_shapes/tiny/*/tokenizer.model")
  spec, objective = c.spec(), c.make_objective()
  with loader.train_batches(
    c.data,
    c.clip,
    c.text,
    objective.mask,
    SentencePiece(str(model)),
    batch_size=c.batch_size,
    seed=0,
    rows=objective.rows,
  ) as loaded:
    batch = next(loaded)
  fake = batches.fake(c)
  for found in ({k: v for k, v in batch.items() if k in spec}, fake):
    assert {k: (v.shape, v.dtype) for k, v in found.items()} == {
      k: (s.shape, s.dtype) for k, s in spec.items()
    }
  assert set(batch) - set(spec) == set(HOST_KEYS)


@pytest.mark.nightly  # by day: gradients on several meshes, test_micro_batches.py
@pytest.mark.parametrize("name", base.names())
def test_the_loss_falls_on_a_2x2x2_mesh(name, data_dir, tmp_path):
  """Trained on one batch: every loss is finite, and the total falls by half."""
  values = smoke(name, data_dir, steps=30)
  values["mesh"] = dict(data=2, fsdp=2, tensor=2)
  found = json.loads(
    on_eight_devices("learn_on_mesh", json.dumps(values), tmp_path / "run")[-1]
  )
  assert found["steps"] == 30
  first, last = found["losses"][0], found["losses"][-1]
  terms = set(values["loss_weights"])
  others = {"grad_norm", "skipped"}
  others |= {"anisotropy/video", "anisotropy/text"} if "vtc" in terms else set()
  assert {f"loss/{t}" for t in {"total", *terms}} | others == set(first)
  assert all(np.isfinite(v) for v in last.values())
  assert last["loss/total"] < 0.5 * first["loss/total"]
  for norms in found["norms"].values():
    np.testing.assert_allclose(norms, 1, rtol=1e-5)
  split = [path for path, spec in found["params"].items() if "fsdp" in spec]
  assert len(split) > 10
  for path, spec in found["teacher"].items():
    assert found["params"][path] == spec  # as the parameters that it follows


def arrays(workdir, step):
  """The state of a checkpoint."""
  path = workdir / "checkpoints" / str(step) / "state"
  with ocp.StandardCheckpointer() as reader:
    return jax.tree.map(np.asarray, reader.restore(path.absolute()))


@ONE
def test_a_resumed_run_is_bitwise_the_same(name, data_dir, tmp_path):
  """As if the run had been killed after step 4 of 6."""
  values = smoke(name, data_dir, steps=6, checkpoint_every=2)
  train_and_evaluate(values, tmp_path)
  reference = arrays(tmp_path, 6)
  shutil.rmtree(tmp_path / "checkpoints" / "6")
  train_and_evaluate(values, tmp_path)
  again = arrays(tmp_path, 6)
  assert jax.tree.structure(again) == jax.tree.structure(reference)
  jax.tree.map(np.testing.assert_array_equal, again, reference)


@pytest.mark.nightly
@pytest.mark.parametrize("name", base.names())
def test_a_run_with_clips_of_two_lengths_resumes_bitwise_the_same(
  name, data_dir, tmp_path
):
  """Half of the frames, then half and all alternately."""
  values = smoke(name, data_dir, steps=4, checkpoint_every=2)
  values["data"]["curriculum"] = [[0, [2]], [1, [4, 2]]]
  train_and_evaluate(values, tmp_path)
  reference = arrays(tmp_path, 4)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(reference["params"]))
  shutil.rmtree(tmp_path / "checkpoints" / "4")
  train_and_evaluate(values, tmp_path)
  jax.tree.map(np.testing.assert_array_equal, arrays(tmp_path, 4), reference)


@EVERY
@pytest.mark.parametrize("variant", ["demo", "smoke", "recipe"])
def test_every_variant_builds_its_objective(name, variant):
  """`recipe` is that of the paper."""
  if variant == "recipe" and name not in FILES:
    module = importlib.import_module(f"configs.{name}")
    (variant,) = {k for k in vars(module) if k.startswith("webvid")}
  c = read(TrainConfig, config(name, variant.replace("recipe", "")).to_dict())
  assert name in FILES or c.name == f"{name}-{variant}"
  objective = c.make_objective()
  assert set(c.loss_weights) == set(objective.loss_names)


@EVERY
def test_every_parameter_has_logical_axes(name):
  c = read(TrainConfig, config(name, "smoke").to_dict())
  objective = c.make_objective()
  spec = c.spec()
  boxed = jax.eval_shape(objective.init, jax.random.key(0), spec)
  is_box = lambda x: isinstance(x, nn.Partitioned)
  for path, leaf in jax.tree_util.tree_leaves_with_path(boxed, is_leaf=is_box):
    assert is_box(leaf), path
    assert len(leaf.names) == leaf.value.ndim, path


@pytest.mark.parametrize("name", [n for n in base.names() if n not in FILES])
def test_every_value_of_the_recipe_names_its_source(name):
  """Each number has a comment with a source that the file's docstring lists."""
  text = (ROOT / "configs" / f"{name}.py").read_text()
  head, body = text.split("def get_config")
  body = body[body.index("  return dict(") :].split("\ndef ")[0]
  sources = re.findall(r'"(\w+)" ', head.partition("Sources: ")[2])
  assert len(sources) >= 3
  for line in body.splitlines():
    value = line.split("#")[0]
    whole = re.search(r"\w=", value) and not value.rstrip().endswith("(")
    if whole and "name=" not in value:
      assert any(source in line for source in sources), line
