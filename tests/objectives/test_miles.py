"""MILES: what the tower sees, what it is compared with, how the teacher is updated."""

import dual_cases
import flax.linen as nn
import jax
import numpy as np
import pytest
from dual_cases import CLIP, PER_FRAME, TEXT, make_batch, with_masked_pixels_changed
from weights import draw

from configs import miles as miles_config
from vtr_jax.core import batch as batch_lib
from vtr_jax.core import sharding
from vtr_jax.core.batch import MaskSpec
from vtr_jax.core.errors import ConfigError
from vtr_jax.models.layers import l2_normalize
from vtr_jax.models.patch_embed import gather
from vtr_jax.objectives import miles
from vtr_jax.train import optim, state, step
from vtr_jax.train.loss import Loss

NOTHING = MaskSpec("block_tube", 0.0, "replace", 0.0, False)
BLOCK = MaskSpec("block_tube", 0.5, "replace", 0.0, False)


def make(mask=BLOCK, **changes):
  """(objective, parameters, teacher, batch) at the smoke size, all random."""
  values = miles_config.get_config("smoke").objective.to_dict()
  values = dual_cases.change(values, **changes)
  objective, params, batch = dual_cases.make(values, mask)
  return objective, params, draw(objective.teacher.pick(params), seed=2), batch


def forward(objective, params, teacher, batch):
  return jax.jit(objective.forward)(params, teacher, batch, jax.random.key(1))


@pytest.mark.parametrize("backbone", ["vit", "divided"])
def test_masked_patches_affect_only_the_teacher(backbone):
  objective, params, teacher, batch = make(backbone=backbone)
  before = forward(objective, params, teacher, batch)
  after = forward(objective, params, teacher, with_masked_pixels_changed(batch))
  for side in ("a", "b"):
    got, want = (getattr(out.pairs["vtc"], side) for out in (after, before))
    np.testing.assert_allclose(got, want, atol=1e-6)
  got, want = (out.terms["features"].mean() for out in (after, before))
  assert abs(got - want) > 1e-3


def test_a_masked_patch_keeps_its_position():
  """Other masked patches with the same pixels change the embedding."""
  objective, params, teacher, batch = make()
  grey = batch | dict(video=np.full_like(batch["video"], 128))
  swapped = dict(
    video_keep_idx=batch["video_mask_idx"], video_mask_idx=batch["video_keep_idx"]
  )
  one = forward(objective, params, teacher, grey).pairs["vtc"].a
  other = forward(objective, params, teacher, grey | swapped).pairs["vtc"].a
  assert abs(one - other).max() > 1e-3


@pytest.mark.parametrize("distance", ["cosine", "mse"])
@pytest.mark.parametrize(
  "masked_tokens", ["mask_token", pytest.param("drop", marks=pytest.mark.nightly)]
)
def test_the_features_term_by_hand(distance, masked_tokens):
  objective, params, teacher, batch = make(
    distance=distance, masked_tokens=masked_tokens
  )
  batch["valid"][2] = False
  found = forward(objective, params, teacher, batch).terms["features"].mean()
  tower = lambda weights, *idx: objective.model.apply(
    {"params": params | weights}, method=lambda m: m.video_tower(batch["video"], *idx)
  )
  keep, mask = batch["video_keep_idx"], batch["video_mask_idx"]
  whole = tower(teacher).patches
  if masked_tokens == "mask_token":
    ours, theirs = gather(tower({}, None, mask).patches, mask), gather(whole, mask)
  else:
    ours, theirs = tower({}, keep).patches, gather(whole, keep)
  gap = np.abs(np.asarray(ours - theirs))
  each = dict(
    cosine=2 - 2 * (l2_normalize(ours) * l2_normalize(theirs)).sum(-1),
    mse=np.square(gap).mean(-1),
  )[distance]
  np.testing.assert_allclose(found, each[batch["valid"]].mean(), rtol=1e-4)


def test_projections_are_compared_with_those_of_the_snapshot():
  """Each side has its own projection, and the snapshot's gets no gradient."""
  objective, params, teacher, batch = make(features="projection")
  other = jax.tree.map(lambda x: x + 0.1, teacher["video_proj"])
  teacher = teacher | dict(video_proj=other)
  found = forward(objective, params, teacher, batch).terms["features"].mean()
  mask = batch["video_mask_idx"]

  def projected(weights, *idx):
    def run(m):
      return m.project_video(gather(m.video_tower(batch["video"], *idx).patches, mask))

    return objective.model.apply({"params": params | weights}, method=run)

  ours, theirs = projected({}, None, mask), projected(teacher)
  each = 2 - 2 * (l2_normalize(ours) * l2_normalize(theirs)).sum(-1)
  np.testing.assert_allclose(found, each.mean(), rtol=1e-4)
  with pytest.raises(ConfigError, match=r"features.*projection"):
    make(features="projektion")


def test_no_gradient_flows_into_the_target():
  """The gradient is that of a constant target."""
  objective, params, teacher, batch = make()

  def features(p):
    out = objective.forward(p, teacher, batch, jax.random.key(1))
    return out.terms["features"].mean()

  target = objective.model.apply(
    {"params": params | teacher}, batch, method="target_features"
  )

  def constant(p):
    rngs = {"dropout": jax.random.key(1)}
    found = objective.model.apply({"params": p}, batch, rngs=rngs)[2]
    return miles.distance("cosine", found, target).mean()

  got, want = jax.jit(jax.grad(features))(params), jax.jit(jax.grad(constant))(params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, want)
  assert abs(got["video_tower"]["mask_token"]).max() > 1e-4


def test_without_masked_patches_the_features_term_is_zero():
  objective, params, teacher, batch = make(NOTHING)
  assert forward(objective, params, teacher, batch).terms["features"].total == 0


def test_the_train_step_updates_the_teacher():
  """With the updated parameters: 0.996 teacher + 0.004 parameters."""
  objective, _, _, _ = make()
  spec = batch_lib.spec(CLIP, TEXT, BLOCK, 6)
  c = miles_config.get_config("smoke").optim.to_dict() | dict(lr=0.01, warmup_steps=0)
  config = optim.OptimConfig(**c)
  abstract = nn.unbox(state.abstract_params(objective, spec))
  optimizer = optim.make(config, 10, abstract)
  mesh = sharding.make_mesh(sharding.MeshConfig(1, 1, 1))
  start, shardings = state.init(objective, optimizer, spec, mesh, 0)
  old = jax.tree.map(np.asarray, start.teacher)
  jax.tree.map(np.testing.assert_array_equal, old, objective.teacher.pick(start.params))
  loss = Loss(objective, dict(vtc=1.0, features=1.0), mesh=mesh)
  train_step = step.make_train_step(loss, optimizer, 10, 0, shardings)
  rows = sharding.put_batch(make_batch(BLOCK), mesh)
  with jax.numpy_dtype_promotion("standard"):  # optax's arithmetic
    end, numbers = train_step(start, rows)
  assert end.teacher.keys() == {"video_tower"}
  assert numbers["loss/features"] > 0
  new = objective.teacher.pick(end.params)
  mixed = jax.tree.map(lambda s, p: 0.996 * s + 0.004 * p, old, new)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
    end.teacher,
    mixed,
  )
  moved = jax.tree.map(lambda a, b: abs(a - b).max() > 0, end.teacher, old)
  assert jax.tree.leaves(moved).count(True) > 10


@pytest.mark.nightly
def test_without_the_features_term_the_teacher_is_not_computed():
  objective, params, teacher, batch = make()

  def flops(**weights):
    total = Loss(objective, weights).total
    loss = lambda p: total(p, teacher, batch, jax.random.key(0))[0]
    compiled = jax.jit(jax.grad(loss)).lower(params).compile()
    return compiled.cost_analysis()["flops"]

  assert flops(vtc=1.0, features=0.0) < 0.9 * flops(vtc=1.0, features=1.0)


def test_invalid_configs_are_rejected():
  with pytest.raises(ConfigError, match=r"teacher\.update: 'copi' is unknown"):
    make(teacher=dict(update="copi", decay=0.9, final_decay=1.0, update_every=1))
  with pytest.raises(ConfigError, match="did you mean 'cosine'"):
    make(distance="cosin")
  with pytest.raises(ConfigError, match="needs the same ones"):
    make(PER_FRAME, masked_tokens="drop", backbone="divided")
  # Masked tubelets keep their positions here, so any mask is valid.
  make(PER_FRAME, masked_tokens="mask_token", backbone="divided")
