"""Parts of the dual encoder: attention patterns, initial values, other clip lengths."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights import draw

from vtr_jax.core.batch import MaskSpec
from vtr_jax.data import masks
from vtr_jax.models import divided_attention, patch_embed, video_tower
from vtr_jax.models.attention import attend
from vtr_jax.models.layers import VIT, Compute, TransformerConfig

SIZE, COMPUTE = TransformerConfig(8, 1, 16, 2), Compute("float32", "xla", False, "none")


def random_params(layer, x):
  """Random parameters of a layer, none at its initial value."""
  return draw(nn.unbox(jax.eval_shape(layer.init, jax.random.key(0), x))["params"])


def dense_attention(params, x, allowed):
  """Plain attention over the `allowed` [b n n] pairs of tokens."""
  linear = lambda p, x: x @ p["kernel"] + p.get("bias", np.zeros(1))[None, None]
  split = lambda y: y.reshape(*y.shape[:2], SIZE.num_heads, -1)
  q, k, v = (split(linear(params[n], x)) for n in ("query", "key", "value"))
  scores = jnp.einsum("bihe,bjhe->bhij", q, k) / np.sqrt(q.shape[-1])
  weights = jax.nn.softmax(jnp.where(allowed[:, None], scores, -jnp.inf))
  return linear(
    params["out"], jnp.einsum("bhij,bjhe->bihe", weights, v).reshape(x.shape)
  )


@pytest.mark.parametrize("over", ["time", "space"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_divided_attention_attends_within_its_frame_or_its_position(
  over, masked, platform, monkeypatch
):
  """Compared with plain attention, masked by the tubelets' true positions.

  On a TPU the kernel gets groups; here plain attention with the same groups does.
  """
  if platform == "tpu":
    plain = lambda *args, implementation, groups: attend(*args, groups=groups)
    monkeypatch.setattr(divided_attention, "resolve", lambda *_: "pallas")
    monkeypatch.setattr(divided_attention, "attend", plain)
  mask, grid = MaskSpec("tube", 0.5 * masked, "replace", 0.0, False), (4, 2, 2)
  rng = np.random.default_rng(0)
  idx = np.stack([masks.video_mask(mask, grid, rng)[0] for _ in range(3)])
  group = idx % 4 if over == "time" else idx // 4
  allowed = np.ones((3, idx.shape[1] + 1, idx.shape[1] + 1), bool)
  allowed[:, 1:, 1:] = group[:, :, None] == group[:, None, :]
  x = jnp.asarray(rng.normal(size=(*allowed.shape[:2], 8)), "float32")
  inits = divided_attention.TIME_INITS["output"]
  layer = divided_attention.DividedAttention(2, COMPUTE, 4, over, inits)
  params = random_params(layer, x)
  got = jax.jit(layer.apply)({"params": params}, x)
  np.testing.assert_allclose(got, dense_attention(params, x, allowed), atol=1e-5)


@pytest.mark.parametrize("time_init", ["frozen", "output"])
def test_time_attention_is_zero_at_initialisation(time_init):
  """With Frozen's initialisation, query and key never have a gradient."""
  block = divided_attention.DividedBlock(SIZE, COMPUTE, VIT, 4, time_init)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 8)), "float32")
  inits = divided_attention.TIME_INITS[time_init]
  layer = divided_attention.DividedAttention(2, COMPUTE, 4, "time", inits)
  time = nn.unbox(layer.init(jax.random.key(0), x))["params"]
  assert not layer.apply({"params": time}, x).any()
  # Long after the start: what can move has moved.
  can_move = time if time_init == "output" else {k: time[k] for k in ("value", "out")}
  params = random_params(block, x) | dict(time_attention=time | draw(can_move))
  loss = lambda p: jnp.square(block.apply({"params": p}, x)).sum()
  grads = jax.jit(jax.grad(loss))(params)
  for name in ("query", "key"):
    gradient = grads["time_attention"][name]["kernel"]
    assert gradient.any() == (time_init == "output"), name


def test_a_divided_block_without_space_attention_and_mlp_is_the_identity():
  """With space attention and MLP at zero, the output is the input: no time part."""
  block = divided_attention.DividedBlock(SIZE, COMPUTE, VIT, 4, "output")
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 8)), "float32")
  params = random_params(block, x)
  for part, last in (("attention", "out"), ("mlp", "down")):
    params[part][last] = jax.tree.map(jnp.zeros_like, params[part][last])
  change = abs(block.apply({"params": params}, x) - x).max()
  assert change < 1e-6


def test_time_positions_are_resized_to_other_lengths():
  learned = jnp.array([[0.0, 4.0], [2.0, 8.0]])
  fit = lambda *args: np.asarray(video_tower.time_positions(learned, *args))
  np.testing.assert_array_equal(fit(1, "linear"), [[0, 4]])
  np.testing.assert_array_equal(fit(3, "zeros"), [[0, 4], [2, 8], [0, 0]])
  want = [[0, 4], [0.5, 5], [1.5, 7], [2, 8]]
  np.testing.assert_allclose(fit(4, "linear"), want, rtol=1e-6)


def test_sinusoidal_initial_positions_equal_the_fixed_table():
  """Space plus time is the fixed table, up to a constant over all positions."""
  grid, width = (3, 2, 4), 20
  space, time = video_tower.sinusoid_inits(grid, True)
  patches = np.asarray(space(jax.random.key(0), (9, width)))[1:]
  frames = np.asarray(time(jax.random.key(0), (3, width)))
  assert not frames[0].any()  # an image keeps its positions
  table = patch_embed.space_time_positions(grid, width)
  np.testing.assert_allclose(
    (frames[:, None] + patches).reshape(-1, width), table, atol=1e-6
  )
