"""Models and objectives: invariants that hold for any weights."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import simvtp as simvtp_config
from vtr_jax.core import batch as batch_lib
from vtr_jax.core.batch import ClipSpec, MaskSpec, TextSpec
from vtr_jax.models import layers
from vtr_jax.models import patch_embed as video_lib
from vtr_jax.objectives import base, draws, simvtp
from vtr_jax.train.loss import Loss

CLIP = ClipSpec(4, 32, (2, 8, 8), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
TEXT = TextSpec(12, 40, 3)
MASK = MaskSpec("random", 0.5, "replace", 0.4, False)
BATCH = batch_lib.fake(CLIP, TEXT, MASK, 6)


@functools.cache
def make(mask=MASK, **changes):
  """(objective, parameters) at the smoke size; nested keys by double underscore."""
  values = simvtp_config.get_config("smoke").objective.to_dict()
  for path, value in changes.items():
    *sections, key = path.split("__")
    section = values
    for name in sections:
      section = section[name]
    section[key] = value
  objective = base.build(values, CLIP, TEXT, mask)
  return objective, nn.unbox(jax.jit(objective.init)(jax.random.key(0), BATCH))


@functools.cache
def loss_of(objective):
  """Jitted (params, batch) -> (total, terms, gradient)."""
  weights = dict.fromkeys(objective.loss_names, 1.0)

  def loss(params, batch):
    total = Loss(objective, weights).total
    return total(params, None, batch, jax.random.key(1))

  return jax.jit(jax.value_and_grad(loss, has_aux=True))


def terms(objective, params, batch=BATCH):
  (total, found), _ = loss_of(objective)(params, batch)
  return total, found


def gradient(objective, params):
  return loss_of(objective)(params, BATCH)[1]


def test_unpatchify_inverts_patchify():
  video = BATCH["video"]
  patches = batch_lib.patchify(video, CLIP.tubelet_size)
  assert patches.shape == (6, CLIP.num_tubelets, CLIP.tubelet_dim)
  np.testing.assert_array_equal(batch_lib.unpatchify(patches, CLIP), video)
  # The second tubelet lies right of the first.
  np.testing.assert_array_equal(
    patches[0, 1].reshape(2, 8, 8, 3), video[0, :2, :8, 8:16]
  )


def test_flat_positions_by_hand():
  table = video_lib.flat_positions((2, 2, 2), 4)
  np.testing.assert_allclose(table[0], [0, 1, 0, 1])
  want = [np.sin(5), np.cos(5), np.sin(0.05), np.cos(0.05)]
  np.testing.assert_allclose(table[5], want, rtol=1e-6)


def test_space_time_positions_encode_each_axis_in_its_own_columns():
  """Positions in one row differ only in the columns of width; all positions differ."""
  table = video_lib.space_time_positions((2, 3, 3), 32)
  assert table.shape == (18, 32)
  assert len(np.unique(table.round(6), axis=0)) == 18
  differs = np.flatnonzero(table[0] != table[1])
  assert differs.min() >= 20  # the last third of the 30 used columns


def test_embeddings_have_unit_length_and_ignore_padding():
  objective, params = make()
  embed_text = jax.jit(objective.predict["embed_text"])
  video = jax.jit(objective.predict["embed_video"])(params, BATCH)
  text = embed_text(params, BATCH)
  for x in (video, text):
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-5)
  junk = np.where(BATCH["text_valid"], BATCH["text_ids"], 17)
  other = embed_text(params, BATCH | dict(text_ids=junk))
  np.testing.assert_allclose(other, text, atol=1e-6)
  short = {k: BATCH[k][:, :9] for k in ("text_ids", "text_valid")}
  rows = ~BATCH["text_valid"][:, 9:].any(axis=1)
  assert rows.any()
  np.testing.assert_allclose(embed_text(params, short)[rows], text[rows], atol=1e-6)


def test_masked_tubelets_and_tokens_affect_only_the_terms_that_predict_them():
  """Changing masked input changes only the terms that predict it."""
  objective, params = make(contrast_text="masked")
  patches = np.array(batch_lib.patchify(BATCH["video"], CLIP.tubelet_size))
  np.put_along_axis(patches, BATCH["video_mask_idx"][:, :, None], np.uint8(7), axis=1)
  ids = np.where(BATCH["text_masked"], 9, BATCH["text_ids"])
  other = BATCH | dict(video=batch_lib.unpatchify(patches, CLIP), text_ids=ids)
  _, before = terms(objective, params)
  _, after = terms(objective, params, other)
  for name in ("loss/vtc", "loss/vtm"):
    np.testing.assert_allclose(after[name], before[name], rtol=1e-5)
  assert abs(after["loss/pixels"] - before["loss/pixels"]) > 1e-3
  assert abs(after["loss/mlm"] - before["loss/mlm"]) > 1e-3


def test_contrast_text_whole_ignores_the_text_mask():
  objective, params = make(contrast_text="whole")
  blind = BATCH | dict(text_masked=np.zeros_like(BATCH["text_masked"]))
  _, masked = terms(objective, params)
  _, unmasked = terms(objective, params, blind)
  np.testing.assert_allclose(masked["loss/vtc"], unmasked["loss/vtc"], rtol=1e-6)


@pytest.mark.parametrize(
  "change",
  [
    dict(compute__remat="norms"),
    pytest.param(dict(compute__remat="dots"), marks=pytest.mark.nightly),
    pytest.param(dict(compute__remat="full"), marks=pytest.mark.nightly),
    pytest.param(dict(compute__remat="offload"), marks=pytest.mark.nightly),
  ],
  ids=lambda change: change["compute__remat"],
)
def test_remat_gives_the_same_gradients(change):
  plain, params = make()
  other, _ = make(**change)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    gradient(plain, params),
    gradient(other, params),
  )


@pytest.mark.nightly
def test_scan_gives_the_same_loss():
  plain, params = make(encoder__depth=2, decoder__depth=2)
  scanned, _ = make(encoder__depth=2, decoder__depth=2, compute__scan=True)

  def stack(tower):
    blocks = [tower.pop(f"block_{i}") for i in range(2)]
    return tower | dict(blocks=jax.tree.map(lambda *x: jnp.stack(x), *blocks))

  towers = {name: stack(dict(params[name])) for name in ("encoder", "decoder")}
  stacked = params | towers
  want, _ = terms(plain, params)
  got, _ = terms(scanned, stacked)
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_bfloat16_is_close_to_float32_and_keeps_float32_parameters():
  exact, params = make()
  rough, rough_params = make(compute__dtype="bfloat16")
  assert {p.dtype for p in jax.tree.leaves(rough_params)} == {jnp.dtype("float32")}
  want, _ = terms(exact, params)
  (got, _), grads = loss_of(rough)(params, BATCH)
  np.testing.assert_allclose(got, want, rtol=0.03)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def draw(seed, valid, video, text, *, group, negatives="hard", row=None):
  """`simvtp.draw_negatives` of rows that lie in another order than their numbers."""
  values = make()[0].model.config
  config = dataclasses.replace(values, negatives=negatives, negatives_group=group)
  row = np.arange(len(valid), dtype=np.int32) if row is None else row
  given = dict(row=row, valid=valid)
  video, text, key = jnp.asarray(video), jnp.asarray(text), jax.random.key(seed)
  return np.asarray(simvtp.draw_negatives(config, video, text, given, key))


@pytest.mark.parametrize("group", [0, 8, 4])
def test_negatives_are_never_the_matching_or_an_invalid_video(group):
  same = jnp.eye(8)  # own pairs look best
  valid = np.arange(8) != 3
  rows = np.stack([draw(seed, valid, same, same, group=group) for seed in range(50)])
  assert not (rows == np.arange(8)).any()
  assert not (rows == 3).any()  # a replaced sample serves as no negative
  if group:
    np.testing.assert_array_equal(
      rows // group, np.tile(np.arange(8) // group, (50, 1))
    )
  others = (group or 8) - 1
  for text in range(8):  # all others occur
    invalid = valid[text] and (text // (group or 8) == 3 // (group or 8))
    assert len(set(rows[:, text])) == others - invalid


def test_hard_negatives_are_similar_ones():
  video = jnp.zeros((6, 2)).at[:, 0].set(1).at[2].set(jnp.array([0.0, 1.0]))
  text = jnp.tile(jnp.array([[0.0, 1.0]]), (6, 1))
  got = draw(0, np.ones(6, bool), video, text, group=0)
  assert (np.delete(got, 2) == 2).all()


def test_false_pairs_do_not_depend_on_where_rows_lie_in_the_arrays():
  """As on a TPU mesh, whose order of devices is not that of the hosts."""
  rng = np.random.default_rng(0)
  video, text = (rng.normal(size=(8, 4)).astype("f") for _ in range(2))
  valid, order = np.arange(8) != 6, np.array([4, 5, 6, 7, 0, 1, 2, 3])
  for group in (0, 4):
    before = draw(1, valid, video, text, group=group)
    moved = draw(
      1, valid[order], video[order], text[order], group=group, row=order.astype("i4")
    )
    np.testing.assert_array_equal(order[moved], before[order])


def test_rows_are_taken_within_groups():
  x = jnp.arange(24.0).reshape(12, 2)
  idx = jnp.array([1, 2, 0, 3, 5, 4, 7, 6, 9, 8, 11, 10])
  for group in (0, 4):
    np.testing.assert_array_equal(draws.take_rows(x, idx, group), x[idx])


@pytest.mark.parametrize(
  "ratio", [*(pytest.param(r, marks=pytest.mark.nightly) for r in (0.0, 0.5)), 0.9]
)
def test_the_loss_is_finite_at_any_mask_ratio(ratio):
  mask = dataclasses.replace(MASK, video_ratio=ratio)
  objective, params = make(mask)
  total, _ = terms(objective, params, batch_lib.fake(CLIP, TEXT, mask, 4))
  assert np.isfinite(total)


def test_every_parameter_has_logical_axes():
  objective, _ = make()
  boxed = jax.eval_shape(objective.init, jax.random.key(0), BATCH)
  for path, leaf in jax.tree_util.tree_leaves_with_path(
    boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned)
  ):
    assert isinstance(leaf, nn.Partitioned), path
    assert len(leaf.names) == leaf.value.ndim, path


def test_match_scores_differ_between_pairs():
  objective, params = make()
  match = jax.jit(objective.predict["match"])
  scores = match(params, BATCH)
  swapped = BATCH | dict(video=BATCH["video"][::-1])
  assert scores.shape == (6,)
  assert not np.allclose(scores, match(params, swapped))


def test_products_of_a_gpu_are_written_in_bfloat16_and_kernels_get_float32_gradients(
  monkeypatch,
):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(4, 6, 8)), jnp.bfloat16)
  kernel = jnp.asarray(rng.normal(size=(8, 16)), jnp.float32)
  loss = lambda x, kernel: layers.product(x, kernel).astype(jnp.float32).sum()
  exact = layers.product(x, kernel)
  grads = jax.grad(loss, (0, 1))(x, kernel)
  monkeypatch.setattr(layers.sharding, "platform", lambda: "gpu")
  written = layers.product(x, kernel)
  assert (exact.dtype, written.dtype) == (jnp.float32, jnp.bfloat16)
  np.testing.assert_array_equal(written, exact.astype(jnp.bfloat16))
  to_x, to_kernel = jax.grad(loss, (0, 1))(x, kernel)
  assert (to_x.dtype, to_kernel.dtype) == (jnp.bfloat16, jnp.float32)
  np.testing.assert_array_equal(to_x, grads[0])
  np.testing.assert_array_equal(to_kernel, grads[1])
