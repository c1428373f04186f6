"""SimVTP's joint pass on a share of rows, and of masked tubelets and tokens."""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest

from configs import simvtp as recipe
from vtr_jax.core import batch as batch_lib
from vtr_jax.core.config import read
from vtr_jax.core.errors import ConfigError
from vtr_jax.objectives import draws
from vtr_jax.objectives.base import apply, dropout
from vtr_jax.train.config import TrainConfig

ROWS = 8


def built(mask=None, **changes):
  """(config, objective, batch) of the smoke config with other keys of `objective`.

  `mask`: keys of the section `mask`.
  """
  values = recipe.get_config("smoke")
  values.mask.video_ratio = 0.75
  for name, value in (mask or {}).items():
    values.mask[name] = value
  values.batch_size = ROWS
  values.objective.update(changes)
  config = read(TrainConfig, values.to_dict())
  return (
    config,
    config.make_objective(),
    batch_lib.fake(config.clip, config.text, config.mask, ROWS),
  )


@pytest.mark.parametrize("contrast_text", ["masked", "whole"])
def test_every_second_row_is_read_jointly_and_every_row_is_contrasted(contrast_text):
  """With the false pair that the row has where all rows are read."""
  _, full, batch = built(contrast_text=contrast_text)
  _, half, _ = built(contrast_text=contrast_text, joint_one_in=2)
  batch |= dict(valid=np.arange(ROWS) != 4)
  key = jax.random.key(0)
  params = nn.unbox(jax.jit(full.init)(key, batch))
  negatives = np.roll(np.arange(ROWS), 3).astype(np.int32)

  def encoded(objective):
    call = lambda p: apply(
      objective.model, p, batch, key, negatives, rngs=dropout(key, batch)
    )
    return jax.jit(call)(params)

  every_row, some = encoded(full), encoded(half)
  close = functools.partial(np.testing.assert_allclose, atol=1e-5)
  for name in ("joint", "pixels", "words"):
    close(getattr(some, name), getattr(every_row, name)[::2], err_msg=name)
  for name in ("mask_idx", "word_ids", "word_masked"):
    wanted = np.asarray(getattr(every_row, name))[::2]
    np.testing.assert_array_equal(getattr(some, name), wanted)
  for name in ("video", "text"):
    close(getattr(some, name), getattr(every_row, name), err_msg=name)
  pairs = np.array([0, 2, 4, 6, *(ROWS + np.array([0, 2, 4, 6]))])
  close(some.match, every_row.match[pairs])
  np.testing.assert_array_equal(some.match_valid, every_row.match_valid[pairs])


def test_the_losses_of_joint_rows_count_these_alone():
  """As if the batch held no other row."""
  config, objective, batch = built(joint_one_in=2)
  batch |= dict(valid=np.arange(ROWS) != 4)
  key = jax.random.key(0)
  params = nn.unbox(jax.jit(objective.init)(key, batch))
  _, full, _ = built()
  losses = lambda objective, rows: jax.jit(
    lambda p: objective.forward(p, None, rows, key)
  )(params)
  out = losses(objective, batch)
  others = losses(full, {k: v[::2] for k, v in batch.items()})
  for name in ("pixels", "mlm"):
    np.testing.assert_allclose(out.terms[name].mean(), others.terms[name].mean(), 1e-5)
    assert float(out.terms[name].count) == float(others.terms[name].count)
  assert float(out.terms["pixels"].count) == ROWS / 2 - 1
  assert len(out.pairs["vtc"].a) == config.batch_size == ROWS


@pytest.mark.parametrize("one_pass", [True, False])
def test_words_at_masked_positions_alone_give_the_full_loss_and_gradient(one_pass):
  """With rows of no masked token, of the most, and one that does not count."""
  objectives = [built(mask=dict(text_max=n), one_pass=one_pass) for n in (0, 5)]
  batch, key = objectives[1][2], jax.random.key(1)
  length = batch["text_ids"].shape[1]
  counts = np.array([0, 5, 1, 5, 0, 3, 2, 4])
  masked = np.tile(np.arange(length) % 3 == 1, (ROWS, 1))
  masked &= masked.cumsum(axis=1) <= counts[:, None]
  batch |= dict(text_masked=masked, text_valid=np.ones((ROWS, length), bool))
  batch |= dict(valid=np.arange(ROWS) != 3)
  params = nn.unbox(jax.jit(objectives[0][1].init)(jax.random.key(0), batch))

  def gradient(objective):
    def loss(params):
      out = objective.forward(params, None, batch, key)
      total = sum(term.mean() for term in out.terms.values())
      return total, (out.terms, out.pairs["vtc"].a)

    return jax.jit(jax.grad(loss, has_aux=True))(params)

  (full, (wanted, video)), (some, (terms, again)) = (
    gradient(objective) for _, objective, _ in objectives
  )
  assert float(terms["mlm"].count) == 15
  np.testing.assert_array_equal(again, video)
  close = lambda a, b: np.testing.assert_allclose(
    a, b, rtol=0, atol=1e-6 * abs(b).max()
  )
  jax.tree.map(close, terms, wanted)
  jax.tree.map(close, some, full)


@pytest.mark.parametrize(("most", "positions"), [(0, 16), (5, 5), (16, 16), (99, 16)])
def test_words_are_predicted_at_as_many_positions_as_may_be_masked(most, positions):
  """Figures have predictions at all of them."""
  config, objective, batch = built(mask=dict(text_max=most))
  key = jax.random.key(0)
  params = nn.unbox(jax.eval_shape(objective.init, key, batch))
  call = lambda p: apply(objective.model, p, batch, key, rngs=dropout(key, batch))
  assert jax.eval_shape(call, params).words.shape == (ROWS, positions, 256)
  shown = jax.eval_shape(objective.predict["reconstruct"], params, batch)
  assert shown.word_ids.shape == (ROWS, config.text.max_length) == (ROWS, 16)


def test_the_predicted_tubelets_of_a_row_depend_on_its_number_alone():
  config, objective, batch = built(pixels_one_in=4)
  key, one_in = jax.random.key(5), objective.model.config.pixels_one_in
  chosen = np.asarray(draws.choose_masked(batch, key, one_in))
  masked = batch["video_mask_idx"]
  assert masked.shape == (ROWS, 6)
  assert chosen.shape == (ROWS, 2)  # a quarter, rounded up
  for row, all_of_row in zip(chosen, masked, strict=True):
    assert row[0] < row[1]
    assert set(row) <= set(all_of_row)
  order = np.random.default_rng(0).permutation(ROWS)
  moved = {k: v[order] for k, v in batch.items()}
  again = np.asarray(draws.choose_masked(moved, key, one_in))
  np.testing.assert_array_equal(again, chosen[order])
  other = np.asarray(draws.choose_masked(batch, jax.random.key(6), one_in))
  assert (other != chosen).any()
  assert config.clip.num_tubelets == 8


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(joint_one_in=0), "joint_one_in: 0 does not divide negatives_group = 0"),
    (dict(joint_one_in=3, negatives_group=4), "joint_one_in: 3 does not divide"),
    (dict(pixels_one_in=0), "pixels_one_in: 0 is below 1"),
  ],
)
def test_a_share_that_does_not_divide_is_refused(changes, message):
  with pytest.raises(ConfigError, match=message):
    built(**changes)


@pytest.mark.parametrize("key", ["joint_one_in", "negatives_group"])
def test_a_batch_is_of_whole_groups_by_that_key(key):
  _, objective, _ = built(**{key: 3})
  assert objective.batch_group == (3, f"config.objective.{key}")


@pytest.mark.parametrize("one_pass", [True, False])
@pytest.mark.parametrize("negatives", ["random", "hard"])
def test_few_rows_may_be_read_jointly(negatives, one_pass):
  """Of 8 rows 1 in 4 is: the 2 false pairs are fewer than `joint_one_in`."""
  _, objective, batch = built(negatives=negatives, joint_one_in=4, one_pass=one_pass)
  key = jax.random.key(0)
  params = nn.unbox(jax.eval_shape(objective.init, key, batch))
  out = jax.eval_shape(
    lambda p: apply(objective.model, p, batch, key, rngs=dropout(key, batch)), params
  )
  assert out.match.shape == (4, 2)


@pytest.mark.parametrize(
  ("negatives", "pool"),
  [
    ("random", "all"),
    pytest.param("random", "valid", marks=pytest.mark.nightly),
    pytest.param("hard", "all", marks=pytest.mark.nightly),
  ],
)
def test_one_pass_gives_the_losses_and_gradients_of_separate_ones(negatives, pool):
  """Whatever the lengths of the captions, padding included in means too."""
  key = jax.random.key(2)

  def gradient(one_pass):
    changes = dict(one_pass=one_pass, pool=pool, negatives=negatives, joint_one_in=4)
    _, objective, batch = built(**changes)
    params = nn.unbox(jax.jit(objective.init)(jax.random.key(0), batch))

    def loss(params):
      out = objective.forward(params, None, batch, key)
      pairs = out.pairs["vtc"]
      terms = {k: term.mean() for k, term in out.terms.items()}
      return sum(terms.values()) + (pairs.a @ pairs.b.T).std(), terms

    return jax.jit(jax.grad(loss, has_aux=True))(params)

  grads, terms = gradient(True)
  wanted, separate = gradient(False)
  for name, value in terms.items():
    np.testing.assert_allclose(value, separate[name], rtol=1e-5, err_msg=name)
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * abs(b).max())
  jax.tree.map(close, grads, wanted)
