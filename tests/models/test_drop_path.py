"""Stochastic depth: rates of the blocks, what is dropped, and when nothing is."""

import functools

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import mac
from vtr_jax.core import batch as batch_lib
from vtr_jax.core.config import read
from vtr_jax.models import layers
from vtr_jax.models.divided_attention import DividedBlock
from vtr_jax.models.layers import Block, Compute, TransformerConfig, run_blocks
from vtr_jax.objectives import base
from vtr_jax.train.config import TrainConfig

SIZE = TransformerConfig(width=16, depth=3, mlp_dim=32, num_heads=2)
X = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5, 16)), jnp.float32)
WAYS = [(scan, remat) for scan in (False, True) for remat in ("none", "full")]
# Layers are separate by default.
SCAN = pytest.mark.parametrize(
  "scan", [False, pytest.param(True, marks=pytest.mark.nightly)]
)
KINDS = {
  Block: (SIZE, Compute("float32"), layers.VIT),
  DividedBlock: (SIZE, Compute("float32"), layers.VIT, 2, "output"),
}


class Blocks(nn.Module):
  block: type[nn.Module]
  fields: tuple
  depth: int
  compute: Compute
  drop_path: float | tuple[float, ...] = 0.0

  @nn.compact
  def __call__(self, x):
    args = self.block, self.fields, self.depth, self.compute, x
    return run_blocks(*args, drop_path=self.drop_path)


class Rate(nn.Module):
  """Records its rate."""

  @nn.compact
  def __call__(self, x, valid=None, drop_rate=None):
    self.sow(
      "intermediates", "rate", jnp.float32(-1) if drop_rate is None else drop_rate
    )
    return x


class Ones(nn.Module):
  """Adds 1 as a residual branch."""

  @nn.compact
  def __call__(self, x, valid=None, drop_rate=None):
    return x + layers.drop_path(self, jnp.ones_like(x), drop_rate)


@pytest.mark.parametrize(("scan", "remat"), WAYS)
@pytest.mark.parametrize(
  ("rate", "depth", "want"),
  [
    (0.2, 5, [0, 0.05, 0.1, 0.15, 0.2]),
    (0.2, 1, [0]),
    (0.0, 2, [-1, -1]),
    ((0.1, 0.3), 2, [0.1, 0.3]),
    ((0.0, 0.0), 2, [-1, -1]),
  ],
)
def test_rates_grow_linearly_over_the_blocks(scan, remat, rate, depth, want):
  compute = Compute("float32", scan=scan, remat=remat)
  model = Blocks(Rate, (), depth, compute, rate)
  _, found = model.apply({}, X, mutable="intermediates")
  rates = jnp.concatenate([jnp.ravel(r) for r in jax.tree.leaves(found)])
  np.testing.assert_allclose(rates, want, atol=1e-7)


@pytest.mark.parametrize("scan", [False, True])
def test_a_dropped_branch_is_0_for_all_of_a_row_and_others_are_scaled(scan):
  """Two branches of rates 0 and 0.25, of 4,000 rows."""
  model = Blocks(Ones, (), 2, Compute("float32", scan=scan), 0.25)
  x = jnp.zeros((4000, 3, 2))
  y = np.asarray(model.apply({}, x, rngs={"dropout": jax.random.key(0)}))
  assert (y == y[:, :1, :1]).all()
  dropped = y[:, 0, 0] == 1
  np.testing.assert_allclose(y[~dropped], 1 + 1 / 0.75, rtol=1e-6)
  assert dropped.mean() == pytest.approx(0.25, abs=0.03)
  assert y.mean() == pytest.approx(2, abs=0.04)  # as without drop path


@pytest.mark.parametrize("scan", [False, True])
def test_scanned_blocks_draw_independently(scan):
  """Of three blocks, the two of rate 0.3 and 0.6 drop rows independently."""
  model = Blocks(Ones, (), 3, Compute("float32", scan=scan), 0.6)
  x = jnp.zeros((4000, 1, 1))
  y = model.apply({}, x, rngs={"dropout": jax.random.key(0)}) - 1
  both = 1 / 0.7 + 1 / 0.4
  for value, share in ((0, 0.18), (1 / 0.7, 0.42), (1 / 0.4, 0.12), (both, 0.28)):
    assert np.mean(np.abs(y - value) < 1e-5) == pytest.approx(share, abs=0.03)


@functools.cache
def params_of(block, scan):
  model = Blocks(block, KINDS[block], 2, Compute("float32", scan=scan))
  return nn.unbox(model.init(jax.random.key(0), X))["params"]


@SCAN
@pytest.mark.parametrize("block", KINDS)
def test_a_block_of_rate_1_leaves_its_input(block, scan):
  """The first of two blocks is never dropped, the second nearly always."""
  compute = Compute("float32", scan=scan)
  params = params_of(block, scan)
  model = Blocks(block, KINDS[block], 2, compute, 1 - 1e-7)
  got = model.apply({"params": params}, X, rngs={"dropout": jax.random.key(0)})
  first = {k: v for k, v in params.items() if k != "block_1"}
  if scan:
    first = jax.tree.map(lambda p: p[:1], params)
  want = Blocks(block, KINDS[block], 1, compute).apply({"params": first}, X)
  np.testing.assert_allclose(got, want, atol=1e-6)


@SCAN
@pytest.mark.parametrize("block", KINDS)
def test_off_it_needs_no_rng_and_parameters_have_the_same_names(block, scan):
  compute = Compute("float32", scan=scan)
  on = Blocks(block, KINDS[block], 2, compute, 0.5)
  rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
  params = params_of(block, scan)
  same = nn.unbox(on.init(rngs, X))["params"]
  jax.tree.map(np.testing.assert_array_equal, params, same)
  off = Blocks(block, KINDS[block], 2, compute)
  off.apply({"params": params}, X)
  with pytest.raises(flax.errors.InvalidRngError):
    on.apply({"params": params}, X)


@pytest.mark.nightly
@pytest.mark.parametrize("scan", [False, True])
def test_what_is_recomputed_drops_the_same_rows(scan):
  """Gradients with and without remat are equal."""

  def gradient(remat):
    compute = Compute("float32", scan=scan, remat=remat)
    model = Blocks(Block, KINDS[Block], 2, compute, 0.5)
    loss = lambda params: jnp.sum(
      jnp.square(
        model.apply({"params": params}, X, rngs={"dropout": jax.random.key(4)})
      )
    )
    return jax.grad(loss)(params_of(Block, scan))

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    gradient("none"),
    gradient("full"),
  )


def test_bfloat16_stays_bfloat16():
  compute = Compute("bfloat16")
  model = Blocks(Block, (SIZE, compute, layers.VIT), 3, compute, 0.5)
  rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
  y, _ = model.init_with_output(rngs, X.astype("bfloat16"))
  assert y.dtype == jnp.bfloat16
  assert np.isfinite(y.astype("float32")).all()


NIGHTLY = pytest.mark.nightly
BACKBONES = ["vit", *(pytest.param(n, marks=NIGHTLY) for n in ("divided", "frame"))]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_dual_encoders_drop_paths_of_the_video_tower_when_asked(backbone):
  """Features of a clip differ by the draw in training and never in evaluation."""
  values = mac.get_config("smoke").to_dict()
  values["objective"]["video"] |= dict(name=backbone, depth=3)
  values["mask"] |= dict(video="tube")
  config = read(TrainConfig, values)
  objective = config.make_objective()
  batch = batch_lib.fake(config.clip, config.text, config.mask, 4)
  params = nn.unbox(jax.jit(objective.init)(jax.random.key(0), batch))
  features = functools.partial(
    base.apply, objective.model, params, batch, method="video_features"
  )
  plain, _ = objective.predict["video_features"](params, batch)
  np.testing.assert_array_equal(features(0.0)[0], plain)
  draws = [
    features(0.5, rngs={"dropout": jax.random.key(seed)})[0] for seed in (0, 0, 1)
  ]
  np.testing.assert_array_equal(draws[0], draws[1])
  assert (draws[0] != draws[2]).any()
  assert (draws[0] != plain).any()
