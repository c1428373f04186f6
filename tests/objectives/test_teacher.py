"""The teacher: which parameters it copies, and how it is updated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtr_jax.core.errors import ConfigError
from vtr_jax.objectives.teacher import Teacher, TeacherConfig

PARAMS = dict(tower=dict(kernel=jnp.array([1.0, 2.0])), head=jnp.array([5.0]))


def teacher(update="ema", decay=0.9, final_decay=0.9, update_every=3):
  return Teacher(("tower",), TeacherConfig(update, decay, final_decay, update_every))


def run(teacher, steps):
  """(teacher during, teacher after) each step; parameters grow by 1 per step."""
  copy, during, after, params = teacher.pick(PARAMS), [], [], PARAMS
  before_step = jax.jit(teacher.before_step)
  after_step = jax.jit(teacher.after_step, static_argnums=3)
  for step in range(steps):
    copy = before_step(copy, params, step)
    during.append(float(copy["tower"]["kernel"][0]))
    params = jax.tree.map(lambda p: p + 1, params)
    copy = after_step(copy, params, step, steps)
    after.append(float(copy["tower"]["kernel"][0]))
  assert copy.keys() == {"tower"}
  return during, after


def test_the_moving_average_by_hand():
  # 0.9 * 1 + 0.1 * 2 = 1.1;  0.9 * 1.1 + 0.1 * 3 = 1.29
  during, after = run(teacher(), 2)
  np.testing.assert_allclose(during, [1, 1.1], rtol=1e-6)
  np.testing.assert_allclose(after, [1.1, 1.29], rtol=1e-6)


def test_the_decay_rises_along_half_a_cosine():
  decay = teacher(decay=0.8, final_decay=1.0).decay
  found = [float(decay(jnp.array(s), 100)) for s in (0, 25, 50, 75, 100)]
  half = np.sqrt(0.5)
  want = [0.8, 0.9 - 0.1 * half, 0.9, 0.9 + 0.1 * half, 1.0]
  np.testing.assert_allclose(found, want, rtol=1e-6)


def test_update_copy_copies_the_parameters_every_update_every_steps():
  during, after = run(teacher("copy"), 7)
  assert during == after == [1, 1, 1, 4, 4, 4, 7]


def test_decay_1_keeps_the_teacher_and_decay_0_copies_the_parameters():
  """Bitwise: there is no rounding if there is nothing to mix."""
  params = dict(tower=jnp.float32(0.1))
  copy = dict(tower=jnp.float32(1 / 3))
  for decay, want in ((1.0, copy), (0.0, params)):
    found = teacher(decay=decay, final_decay=decay).after_step(
      copy, params, jnp.int32(4), 10
    )
    assert found["tower"] == want["tower"]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(update="emma"), "update: 'emma' is unknown; did you mean 'ema'?"),
    (dict(decay=1.5), "decay: 1.5 not in"),
    (dict(final_decay=-0.1), "final_decay: -0.1 not in"),
    (dict(update_every=0), "update_every: 0 must be positive"),
  ],
)
def test_invalid_teacher_configs_are_rejected(changes, message):
  with pytest.raises(ConfigError, match=message):
    teacher(**changes)
