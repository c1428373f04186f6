"""The attention kernel for TPUs against "xla", interpreted; and what "auto" chooses."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gradient_cases import normal, value_and_gradients

from vtr_jax.core import sharding
from vtr_jax.core.errors import ConfigError
from vtr_jax.models import pallas_attention
from vtr_jax.models.attention import ALL, attend, resolve
from vtr_jax.models.layers import Compute
from vtr_jax.plan import chips
from vtr_jax.train import flops

# Around registers of 8 x 128 and blocks of 256 queries; several blocks from 363 on.
LENGTHS = (1, 2, 3, 5, 7, 17, 31, 33, 63, 65, 127, 129, 157, 197, 255, 257, 317, 393)
LENGTHS += (513, 785)


def masks(kind, rows, length):
  """Arguments of `attend`: nothing | valid | causal | groups | all."""
  index = np.arange(length)
  valid = index < np.maximum(length - 3 * np.arange(rows), 1)[:, None]
  groups = ((index + np.arange(rows)[:, None]) % 3).astype(np.int32)
  groups[:, 0] = ALL
  given = dict(valid=valid, causal=True, groups=groups)
  return given if kind == "all" else {k: v for k, v in given.items() if k == kind}


def both(call, *inputs):
  """Value and gradients."""
  value, back = jax.vjp(call, *inputs)
  return value, back(value)


def compare(inputs, close, **given):
  """Checks value and gradients of the kernel in the inputs' dtype."""
  exact = [jnp.asarray(x, jnp.float32) for x in inputs]
  want = value_and_gradients(lambda *x: attend(*x, **given), *exact)
  kernel = lambda *x: pallas_attention.attend(*x, **given, interpret=True)
  for a, b in zip(value_and_gradients(kernel, *inputs), want, strict=True):
    # A gradient that is 0, as a single key's, has no size of its own.
    np.testing.assert_allclose(a, b, atol=close * max(np.abs(b).max(), 1e-2), rtol=0)


@pytest.mark.parametrize(
  ("length", "kind", "heads", "size"),
  [
    (1, "nothing", 1, 128),
    (33, "all", 4, 32),
    (157, "valid", 4, 64),
    (393, "causal", 2, 64),
    (513, "groups", 1, 96),
  ],
)
def test_values_and_gradients_equal_those_of_xla(length, kind, heads, size):
  inputs = [normal(i, 2, length, heads, size) for i in range(3)]
  compare(inputs, 1e-5, **masks(kind, 2, length))


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["nothing", "valid", "causal", "groups", "all"])
@pytest.mark.parametrize("length", LENGTHS)
def test_every_mask_at_every_length(length, kind):
  inputs = [normal(i, 3, length, 2, 64) for i in range(3)]
  compare(inputs, 1e-5, **masks(kind, 3, length))
  compare([jnp.asarray(x, "bfloat16") for x in inputs], 3e-2, **masks(kind, 3, length))


@pytest.mark.parametrize("mesh", [None, (1, 1, 1)])
def test_bfloat16_differs_by_rounding_alone(mesh):
  """Also where queries and keys differ in number, and on a mesh."""
  inputs = [normal(i, 2, n, 2, 64) for i, n in enumerate((70, 45, 45))]
  mesh = mesh and sharding.make_mesh(sharding.MeshConfig(*mesh))
  with sharding.scope(mesh) if mesh else contextlib.nullcontext():
    valid = np.arange(45) < np.array([[45], [7]])
    compare([jnp.asarray(x, "bfloat16") for x in inputs], 3e-2, valid=valid)


def test_one_row_of_groups_serves_all_rows():
  inputs = [normal(i, 4, 40, 2, 64) for i in range(3)]
  groups = masks("groups", 4, 40)["groups"][:1]
  one = pallas_attention.attend(*inputs, groups=groups, interpret=True)
  each = pallas_attention.attend(
    *inputs, groups=np.repeat(groups, 4, axis=0), interpret=True
  )
  np.testing.assert_array_equal(one, each)


@pytest.mark.parametrize("kind", ["groups", "all"])
def test_groups_and_their_gradients_equal_those_of_plain_jax(kind):
  """Of "xla", which the kernel is compared with."""
  inputs, given = [normal(i, 2, 9, 3, 8) for i in range(3)], masks(kind, 2, 9)
  seen = np.zeros((2, 1, 9, 9), bool)
  for row, query, key in np.ndindex(2, 9, 9):
    a, b = given["groups"][row, [query, key]]
    seen[row, 0, query, key] = a == b or ALL in (a, b)
    if kind == "all":
      seen[row, 0, query, key] &= given["valid"][row, key] and key <= query
  plain = lambda *x: jax.nn.dot_product_attention(*x, mask=seen, implementation="xla")
  want = value_and_gradients(plain, *inputs)
  ours = value_and_gradients(lambda *x: attend(*x, **given), *inputs)
  for a, b in zip(ours, want, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max(), rtol=0)


def test_two_groups_equal_two_rows():
  """[video ; text] in one row, with the text's padding, as two calls."""
  video, text = (normal(i, 3, n, 3, 64) for i, n in enumerate((20, 12)))
  valid = np.arange(12) < np.array([[12], [5], [1]])
  pair = jnp.concatenate([video, text], axis=1)
  call = lambda *x, **more: pallas_attention.attend(*x, **more, interpret=True)
  joint = call(
    pair,
    pair,
    pair,
    valid=np.pad(valid, ((0, 0), (20, 0)), constant_values=True),
    groups=np.repeat(np.int32([0, 1]), (20, 12))[None],
  )
  apart = call(video, video, video), call(text, text, text, valid=valid)
  np.testing.assert_allclose(joint, jnp.concatenate(apart, axis=1), atol=1e-5)


def test_products_of_the_kernel_are_counted():
  """Forward as "xla"; backward, the scores once more."""
  inputs = [jax.ShapeDtypeStruct((2, 400, 2, 64), "bfloat16")] * 3
  product = 2 * 2 * 400 * 400 * 128
  call = lambda *x: pallas_attention.attend(*x, interpret=True)
  assert flops.count_flops(call, *inputs) == 2 * product
  assert flops.count_flops(lambda *x: both(call, *x), *inputs) == 7 * product


@pytest.mark.parametrize(
  ("platform", "lengths", "size", "cap", "chosen"),
  [
    ("tpu", (317, 317), 64, 0.0, "pallas"),
    ("tpu", (33, 33), 64, 0.0, "pallas"),
    ("tpu", (317, 317), 64, 50.0, "xla"),
    ("tpu", (317, 317), 88, 0.0, "xla"),  # does not fill registers
    ("tpu", (5, 6), 64, 0.0, "xla"),  # along time
    ("tpu", (1, 785), 64, 0.0, "xla"),  # a class token
    ("tpu", (6400, 6400), 64, 0.0, "xla"),  # keys do not fit into VMEM
    ("gpu", (317, 317), 64, 0.0, "cudnn"),
    ("gpu", (317, 317), 132, 0.0, "xla"),  # wider than cuDNN's heads
    ("cpu", (317, 317), 64, 0.0, "xla"),
  ],
)
def test_auto_chooses_by_platform_length_and_head(
  platform, lengths, size, cap, chosen, monkeypatch
):
  monkeypatch.setattr(sharding, "platform", lambda: platform)
  query, key = (jax.ShapeDtypeStruct((2, n, 3, size), "bfloat16") for n in lengths)
  pick = lambda q, k: found.append(resolve("auto", q, k, cap))
  found = []
  jax.eval_shape(pick, query, key)
  assert found == [chosen]


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="is about CPUs")
def test_auto_is_the_same_program_as_xla_on_a_cpu():
  inputs = [jax.ShapeDtypeStruct((2, 64, 3, 64), "bfloat16")] * 3
  texts = (
    str(jax.make_jaxpr(lambda *x, how=how: attend(*x, implementation=how))(*inputs))
    for how in ("auto", "xla")
  )
  assert len(set(texts)) == 1


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="is about CPUs")
@pytest.mark.parametrize(("how", "needs"), [("pallas", "TPU"), ("cudnn", "GPU")])
def test_a_kernel_of_other_devices_is_rejected(how, needs):
  x = normal(0, 2, 40, 1, 64)
  message = f"{how!r} needs a {needs}, this step is for cpu; set 'auto'"
  with pytest.raises(ConfigError, match=message):
    attend(x, x, x, implementation=how)


def test_cudnn_needs_bfloat16():
  with pytest.raises(ConfigError, match="'cudnn' has no float32; set 'auto'"):
    Compute("float32", "cudnn")


@pytest.mark.parametrize(("length", "kind"), [(33, "all"), (1568, "groups")])
def test_the_kernel_is_lowered_for_tpus_that_are_not_here(length, kind):
  """By JAX, without TPUs' compiler."""
  x = jax.ShapeDtypeStruct((2, length, 4, 64), "bfloat16")
  given = masks(kind, 2, length)
  step = lambda *x: both(lambda *x: pallas_attention.attend(*x, **given), *x)
  lowered = jax.jit(step).trace(x, x, x).lower(lowering_platforms=("tpu",))
  assert lowered.as_text().count("tpu_custom_call") == 2


# Videos of MAC, captions, MILES, SimVTP's decoder, the longest one.
@pytest.mark.nightly
@pytest.mark.parametrize("chip", ["v4:2x2x1", "v5e:2x2", "v6e:2x2"])
@pytest.mark.parametrize(
  ("length", "kind"),
  [(317, "nothing"), (33, "all"), (785, "groups"), (1568, "nothing"), (3200, "all")],
)
def test_auto_compiles_for_tpus_that_are_not_here(chip, length, kind):
  if chips.compiler_version() is None:
    pytest.skip("libtpu is not installed: pip install 'jax[tpu]'")
  mesh = sharding.make_mesh(
    sharding.MeshConfig(data=2, tensor=2), chips.find(chip).devices
  )
  x = jax.ShapeDtypeStruct((4, length, 4, 64), "bfloat16")
  call = lambda *x: attend(*x, implementation="auto", **masks(kind, 4, length))
  with sharding.scope(mesh):
    step = jax.jit(lambda *x: both(call, *x))
    text = step.lower(x, x, x).compile().as_text()
  assert text.count("tpu_custom_call") == 2
