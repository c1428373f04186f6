"""The optimiser: schedule, decay, freezing, clipping, and rules by path."""

import dataclasses

import dual_cases
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from configs import finetune_actions, mac, simvtp
from vtr_jax.core.config import read
from vtr_jax.core.errors import ConfigError
from vtr_jax.train import muon, optim
from vtr_jax.train import state as state_lib
from vtr_jax.train.config import TrainConfig

PARAMS = dict(
  encoder=dict(kernel=jnp.ones((2, 2)), bias=jnp.ones(2)), head=dict(kernel=jnp.ones(2))
)
ALL = ((".*", 1.0),)


def config(**changes):
  values = dict(
    lr=0.1,
    min_lr=0.01,
    schedule="cosine",
    warmup_steps=4,
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    weight_decay=0.0,
    decay_rules=ALL,
    lr_rules=ALL,
    clip_norm=0.0,
    muon="",
    moments="float32",
    layer_decay=1.0,
    ema_decay=0.0,
  )
  return optim.OptimConfig(**values | changes)


def step(config, grads, params=PARAMS, layers_above=None):
  """Parameters after one step at the peak learning rate."""
  optimizer = optim.make(config, 100, params, layers_above)
  state = optimizer.init(params)
  updates, _ = optimizer.update(grads, state, params)
  return optax.apply_updates(params, updates)


def test_the_schedule_warms_up_and_decays():
  rate = optim.schedule(config(), 100)
  got = [float(rate(s)) for s in (0, 2, 4, 52, 100)]
  np.testing.assert_allclose(got, [0, 0.05, 0.1, 0.055, 0.01], rtol=1e-5)
  flat = optim.schedule(config(schedule="constant"), 100)
  np.testing.assert_allclose([float(flat(s)) for s in (2, 4, 99)], [0.05, 0.1, 0.1])


def test_the_first_step_is_that_of_adamw():
  """Adam's first update is the gradient's sign; decay is added to it."""
  grads = dict(
    encoder=dict(kernel=jnp.full((2, 2), 3.0), bias=jnp.full(2, -2.0)),
    head=dict(kernel=jnp.full(2, 0.5)),
  )
  rules = ((r"kernel$", 1.0), (".*", 0.0))
  c = config(schedule="constant", warmup_steps=0, weight_decay=0.2, decay_rules=rules)
  new = step(c, grads)
  np.testing.assert_allclose(new["encoder"]["kernel"], 1 - 0.1 * 1.2, rtol=1e-5)
  np.testing.assert_allclose(new["encoder"]["bias"], 1 + 0.1, rtol=1e-5)


def test_frozen_parameters_stay_and_do_not_count_in_the_clipped_norm():
  grads = dict(
    encoder=dict(kernel=jnp.full((2, 2), 1e9), bias=jnp.full(2, 1e9)),
    head=dict(kernel=jnp.full(2, 1e-6)),
  )
  rules = (("^encoder/", 0.0), (".*", 1.0))
  c = config(
    schedule="constant", warmup_steps=0, lr_rules=rules, clip_norm=1.0, weight_decay=1.0
  )
  new = step(c, grads)
  assert (new["encoder"]["kernel"] == 1).all()
  # Were the frozen gradients in the norm, the head's would vanish below eps.
  assert (new["head"]["kernel"] < 0.85).all()


def test_lr_rules_scale_the_learning_rate():
  grads = dict(
    encoder=dict(kernel=jnp.ones((2, 2)), bias=jnp.ones(2)),
    head=dict(kernel=jnp.ones(2)),
  )
  rules = (("^encoder/", 0.5), (".*", 1.0))
  new = step(config(schedule="constant", warmup_steps=0, lr_rules=rules), grads)
  np.testing.assert_allclose(new["encoder"]["bias"], 0.95, rtol=1e-5)
  np.testing.assert_allclose(new["head"]["kernel"], 0.9, rtol=1e-5)


@pytest.mark.parametrize(
  ("rules", "message"),
  [
    ((("^encoder/", 1.0),), "no rule covers head/kernel"),
    ((("^encodr/", 1.0), (".*", 1.0)), "'^encodr/' matches no parameter"),
  ],
)
def test_rules_must_cover_and_match(rules, message):
  with pytest.raises(ConfigError) as e:
    optim.make(config(lr_rules=rules), 100, PARAMS)
  assert message in str(e.value)
  assert "config.optim.lr_rules" in str(e.value)


@pytest.mark.parametrize("shape", [(6, 6), (4, 10), (10, 4), (3, 5, 8)])
def test_orthogonal_keeps_singular_vectors_and_sets_singular_values_near_1(shape):
  x = np.random.default_rng(0).normal(size=shape).astype("f")
  y = np.asarray(muon.orthogonal(jnp.array(x)))
  u, _, vt = np.linalg.svd(x, full_matrices=False)
  # In the basis of x's own singular vectors it is diagonal, and near 1.
  inner = u.swapaxes(-1, -2) @ y @ vt.swapaxes(-1, -2)
  diagonal = np.diagonal(inner, axis1=-2, axis2=-1)
  assert ((diagonal > 0.6) & (diagonal < 1.3)).all()
  rest = inner - np.eye(inner.shape[-1]) * diagonal[..., None, :]
  assert np.abs(rest).max() < 0.05


def test_muon_updates_the_matching_parameters_and_adam_the_rest():
  rng = np.random.default_rng(0)
  params = dict(
    block=dict(kernel=jnp.ones((4, 6)), bias=jnp.ones(6)), head=jnp.ones((4, 6))
  )
  grads = jax.tree.map(lambda p: jnp.array(rng.normal(size=p.shape), "f"), params)
  flat = dict(schedule="constant", warmup_steps=0)
  new = step(config(muon="block.*kernel$", **flat), grads, params)
  plain = step(config(**flat), grads, params)
  np.testing.assert_array_equal(new["head"], plain["head"])
  np.testing.assert_array_equal(new["block"]["bias"], plain["block"]["bias"])
  # Of the first two means, each 0.05 of the gradient, the scale does not matter.
  change = -0.1 * 0.2 * 6**0.5 * muon.orthogonal(grads["block"]["kernel"])
  np.testing.assert_allclose(new["block"]["kernel"] - 1, change, atol=2e-3)
  # As large as Adam's updates, by design.
  rms = float(jnp.sqrt(jnp.mean(change**2)))
  assert 0.1 * 0.15 < rms < 0.1 * 0.25


def test_bfloat16_moments_hardly_change_the_steps():
  """Over ten steps; only first moments are bfloat16, second moments stay float32."""
  params = dict(block=dict(kernel=jnp.ones((4, 6))), head=jnp.ones((4, 6)))

  def end(moments):
    optimizer = optim.make(config(muon="kernel$", moments=moments), 100, params)
    state, now = optimizer.init(params), params
    for i in range(10):
      rng = np.random.default_rng(i)
      draw = lambda p, rng=rng: jnp.array(1 + rng.normal(size=p.shape), "f")
      updates, state = optimizer.update(jax.tree.map(draw, now), state, now)
      now = optax.apply_updates(now, updates)
    return now, sorted(str(x.dtype) for x in jax.tree.leaves(state))

  exact, wide = end("float32")
  rough, narrow = end("bfloat16")
  assert narrow.count("bfloat16") == 2
  assert wide.count("float32") == 3
  for a, b in zip(*map(jax.tree.leaves, (exact, rough)), strict=True):
    assert np.abs(a - 1).max() > 0.05
    np.testing.assert_allclose(a, b, atol=0.07 * np.abs(a - 1).max())


def test_muon_leaves_frozen_parameters_and_rejects_non_matrices():
  rules = (("^encoder/", 0.0), (".*", 1.0))
  grads = jax.tree.map(jnp.ones_like, PARAMS)
  new = step(config(muon="encoder/kernel", lr_rules=rules), grads)
  assert (new["encoder"]["kernel"] == 1).all()
  with pytest.raises(ConfigError, match="matches head/kernel, which is not a matrix"):
    step(config(muon="kernel"), grads)
  with pytest.raises(ConfigError, match=r"muon: 'krnel' matches no parameter"):
    step(config(muon="krnel"), grads)


def test_a_warmup_longer_than_training_is_shortened():
  """With a warning rather than an error, so that a run of one step works."""
  long = config(warmup_steps=100)
  rate = optim.schedule(long, 100)
  assert int(np.argmax([rate(i) for i in range(100)])) == 10
  (warning,) = optim.short_warmup(long, 100)
  assert warning.endswith("warmup_steps: 100 is not below steps = 100; shortened to 10")
  assert float(optim.schedule(long, 1)(0)) == pytest.approx(long.lr)
  assert optim.short_warmup(config(warmup_steps=4), 100) == []


def towers(name, scan, **changes):
  """Abstract parameters of a smoke config whose objective has other values."""
  return build(name, scan, **changes)[0]


def build(name, scan, **changes):
  """(abstract parameters, `layers_above`) of `towers`."""
  module = dict(mac=mac, simvtp=simvtp, actions=finetune_actions)[name]
  variant = "moving_shapes,mac,smoke" if name == "actions" else "smoke"
  values = module.get_config(variant).to_dict() | dict(evals={})
  if name != "simvtp":
    changes = dual_cases.change(values["objective"], **changes)
  values["objective"] |= changes
  values["objective"]["compute"]["scan"] = scan
  c = read(TrainConfig, values)
  objective = c.make_objective()
  params = nn.unbox(state_lib.abstract_params(objective, c.spec()))
  return params, objective.model.layers_above


def layered(name, decay, **changes):
  """Factors of the learning rate by path."""
  params, layers_above = build(name, False, **changes)
  return by_path(optim.by_layer(params, decay, layers_above))


MU = dict(width=32, mlp_dim=128, num_heads=2)
DUAL = dict(video=MU | dict(depth=2), text=MU | dict(depth=3))


def by_path(tree):
  return flatten_dict(tree, sep="/")


# Decay 0.5, worked out by hand: half as much for each layer further down.
MAC_TABLE = {
  "video_tower/cls_token": 1 / 8,
  "video_tower/space_positions": 1 / 8,
  "video_tower/time_positions": 1 / 8,
  "video_tower/proj/kernel": 1 / 8,
  "video_tower/block_0/mlp/up/kernel": 1 / 4,
  "video_tower/block_1/norm_mlp/scale": 1 / 2,
  "video_tower/norm/scale": 1,
  "video_proj/kernel": 1,
  "text_tower/embed/words": 1 / 16,
  "text_tower/embed/positions": 1 / 16,
  "text_tower/embed/norm/bias": 1 / 16,
  "text_tower/transformer/block_0/attention/key/kernel": 1 / 8,
  "text_tower/transformer/block_1/mlp/up/kernel": 1 / 4,
  "text_tower/transformer/block_2/mlp/up/kernel": 1 / 2,
  "text_tower/transformer/norm/scale": 1,
  "text_proj/bias": 1,
  "logit_scale": 1,
  # The decoder reads what the encoder gives, as a head does.
  "to_decoder/kernel": 1,
  "mask_token": 1,
  "decoder/block_0/mlp/up/kernel": 1,
  "decoder/norm/scale": 1,
  "pixel_head/kernel": 1,
}
SIMVTP_TABLE = {
  "video_embed/proj/kernel": 1 / 8,
  "text_embed/words": 1 / 8,
  "encoder/block_0/mlp/up/kernel": 1 / 4,
  "encoder/block_1/mlp/up/kernel": 1 / 2,
  "encoder/norm/scale": 1,
  "word_head/kernel": 1,
  "match_head/kernel": 1,
  "mask_token": 1,
  "decoder/block_1/mlp/up/kernel": 1,
}


def test_layer_decay_of_a_classifier_spares_its_head():
  found = layered("actions", 0.5, video=MU | dict(depth=2))
  assert found["head/kernel"] == found["head/bias"] == 1
  tower = {k: v for k, v in MAC_TABLE.items() if k.startswith("video_tower/")}
  assert {k: found[k] for k in tower} == tower


@pytest.mark.parametrize("text_norm", ["pre", "post"])
def test_layer_decay_halves_the_rate_per_layer_of_two_towers(text_norm):
  changes = DUAL | dict(
    text_norm=text_norm, decoder=MU | dict(depth=2), learn_temperature=True
  )
  found = layered("mac", 0.5, **changes)
  table = MAC_TABLE
  if text_norm == "post":
    table = {k.replace("transformer/", ""): v for k, v in table.items()}
    del table["text_tower/norm/scale"]
  assert {k: found[k] for k in table} == table
  # Everything of a block is of its layer, and nothing else is between 1/8 and 1.
  between = {k for k, v in found.items() if k.startswith("video") and 1 / 8 < v < 1}
  assert between == {k for k in found if k.startswith("video_tower/block_")}
  masked = layered("mac", 0.5, **DUAL, masked_tokens="mask_token")
  assert masked["video_tower/mask_token"] == 1 / 8


def test_layer_decay_halves_the_rate_per_layer_of_one_shared_encoder():
  size = MU | dict(depth=2)
  found = layered("simvtp", 0.5, encoder=size, decoder=size)
  assert {k: found[k] for k in SIMVTP_TABLE} == SIMVTP_TABLE


def test_layer_decay_requires_layers():
  with pytest.raises(ConfigError, match="layer_decay: the model has no layers"):
    optim.make(config(layer_decay=0.5), 100, PARAMS)
  with pytest.raises(ConfigError, match=r"layer_decay: 0.0 not in \(0, 1\]"):
    config(layer_decay=0.0)
  with pytest.raises(ConfigError, match=r"ema_decay: 1.0 not in \[0, 1\)"):
    config(ema_decay=1.0)


def stack(params):
  """block_0, block_1, ... as `compute.scan` has them: one tree with a leading axis."""
  if not isinstance(params, dict):
    return params
  names = sorted(k for k in params if k.startswith("block_"))
  rest = {k: stack(v) for k, v in params.items() if k not in names}
  if not names:
    return rest
  blocks = jax.tree.map(lambda *each: jnp.stack(each), *(params[k] for k in names))
  return rest | dict(blocks=blocks)


@pytest.mark.nightly
@pytest.mark.parametrize("pattern", ["", r"block.*kernel$"])
def test_stacked_blocks_are_updated_like_single_ones(pattern):
  """With AdamW and with Muon; each slice has its own rate, and rules multiply."""
  rng = np.random.default_rng(0)
  shapes, above = build("mac", False, **DUAL)
  draw = lambda p: jnp.array(rng.normal(size=p.shape), "f")
  params, grads = jax.tree.map(draw, shapes), jax.tree.map(draw, shapes)
  rules = (("^text_tower/", 0.5), ("^video_tower/.*key", 0.0), (".*", 1.0))
  c = config(
    schedule="constant",
    warmup_steps=0,
    weight_decay=0.1,
    muon=pattern,
    lr_rules=rules,
    layer_decay=0.7,
  )
  assert {*stack(shapes_of(shapes))["video_tower"]} == {
    *towers("mac", True, **DUAL)["video_tower"]
  }
  single = stack(step(c, grads, params, above))
  stacked = step(c, stack(grads), stack(params), above)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), single, stacked
  )
  off = step(dataclasses.replace(c, layer_decay=1.0), grads, params)
  moved = by_path(jax.tree.map(jnp.subtract, step(c, grads, params, above), params))
  whole = by_path(jax.tree.map(jnp.subtract, off, params))
  for path, factor in {
    "text_tower/embed/words": 0.7**4,
    "text_tower/transformer/block_1/mlp/up/kernel": 0.7**2,
    "video_tower/block_1/mlp/up/kernel": 0.7,
    "video_proj/kernel": 1.0,
  }.items():
    np.testing.assert_allclose(moved[path], factor * whole[path], rtol=1e-3, atol=1e-6)
  key = "video_tower/block_0/attention/key/kernel"
  np.testing.assert_array_equal(moved[key], 0)


def shapes_of(tree):
  return jax.tree.map(lambda s: jnp.zeros(s.shape), tree)


@pytest.mark.nightly
@pytest.mark.parametrize("tower", ["video_tower", "text_tower"])
@pytest.mark.parametrize("scan", [False, True])
def test_a_rule_freezes_a_whole_tower(tower, scan):
  """Also with layer decay; all other parameters are trained."""
  shapes, above = build("mac", scan, **DUAL)
  params = jax.tree.map(lambda s: jnp.ones(s.shape), shapes)
  rules = ((f"^{tower}/", 0.0), (".*", 1.0))
  c = config(schedule="constant", warmup_steps=0, lr_rules=rules, layer_decay=0.7)
  new = step(c, jax.tree.map(jnp.ones_like, params), params, above)
  for path, value in by_path(new).items():
    assert bool((value == 1).all()) == path.startswith(f"{tower}/"), path
