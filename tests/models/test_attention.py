"""Our attention compared with JAX's own: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gradient_cases import normal, value_and_gradients

from vtr_jax.core import sharding
from vtr_jax.models import layers
from vtr_jax.models.attention import attend
from vtr_jax.models.layers import Compute, Dense, Transformer, TransformerConfig

VALID = np.arange(9) < np.array([[9], [4]])


@pytest.mark.parametrize("valid", [None, VALID])
@pytest.mark.parametrize(("dtype", "close"), [("float32", 1e-5), ("bfloat16", 3e-2)])
def test_attention_and_its_gradients_equal_those_of_jax_nn(valid, dtype, close):
  inputs = [normal(0, 2, 7, 3, 8), normal(1, 2, 9, 3, 8), normal(2, 2, 9, 3, 8)]
  mask = None if valid is None else valid[:, None, None, :]
  exact = value_and_gradients(
    lambda *x: jax.nn.dot_product_attention(*x, mask=mask, implementation="xla"),
    *inputs,
  )
  rough = [jnp.asarray(x, dtype) for x in inputs]
  ours = value_and_gradients(lambda *x: attend(*x, valid), *rough)
  for a, b in zip(ours, exact, strict=True):
    np.testing.assert_allclose(a, b, atol=close * np.abs(b).max(), rtol=0)


@pytest.mark.parametrize("causal", [False, True])
def test_a_logit_cap_and_its_gradients_equal_those_of_plain_jax(causal):
  """At scores far beyond the cap."""
  inputs = [4 * normal(0, 2, 9, 3, 8), normal(1, 2, 9, 3, 8), normal(2, 2, 9, 3, 8)]

  def plain(query, key, value):
    scores = jnp.einsum("bnhe,bmhe->bhnm", query, key) / np.sqrt(8)
    scores = 1.5 * jnp.tanh(scores / 1.5)
    allowed = VALID[:, None, None] & (np.tri(9, dtype=bool) if causal else True)
    probs = jax.nn.softmax(jnp.where(allowed, scores, -1e30), axis=-1)
    return jnp.einsum("bhnm,bmhe->bnhe", probs, value)

  exact = value_and_gradients(plain, *inputs)
  capped = lambda *x: attend(*x, VALID, "xla", causal, 1.5)
  for a, b in zip(value_and_gradients(capped, *inputs), exact, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max(), rtol=0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("valid", [None, VALID])
@pytest.mark.parametrize("length", [8, 9])
def test_cudnn_gets_even_lengths_and_full_masks(length, valid, causal, monkeypatch):
  """cuDNN has no gradient otherwise; the result is that of plain attention."""
  plain = jax.nn.dot_product_attention

  def strict(query, key, value, mask=None, *, is_causal, implementation):
    assert implementation == "cudnn"
    assert query.shape[1] % 2 == key.shape[1] % 2 == 0
    if mask is not None:
      assert mask.shape == (len(query), 1, query.shape[1], key.shape[1])
    return plain(
      query, key, value, mask=mask, is_causal=is_causal, implementation="xla"
    )

  monkeypatch.setattr(jax.nn, "dot_product_attention", strict)
  monkeypatch.setattr(sharding, "platform", lambda: "gpu")
  inputs = [normal(i, 2, length, 3, 8) for i in range(3)]
  valid = None if valid is None else valid[:, :length]
  exact = value_and_gradients(lambda *x: attend(*x, valid, "xla", causal), *inputs)
  ours = value_and_gradients(lambda *x: attend(*x, valid, "cudnn", causal), *inputs)
  for a, b in zip(ours, exact, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max(), rtol=0)


@pytest.mark.parametrize("scan", [False, True])
def test_a_tower_is_padded_once_for_cudnn(scan, monkeypatch):
  """Instead of in each layer: values, gradients and attention maps stay the same.

  Also if the kernel leaves anything at the padding.
  """
  plain, lengths = jax.nn.dot_product_attention, []
  padding = np.arange(34)[None, :, None, None] >= 33

  @jax.custom_vjp
  def undefined_gradient(x):
    return x

  undefined_gradient.defvjp(
    lambda x: (x, None), lambda _, g: (jnp.where(padding, jnp.nan, g),)
  )

  def kernel(query, key, value, *, implementation, **masks):
    assert implementation == "cudnn"
    assert query.shape[1] % 2 == 0
    lengths.append(masks.get("key_value_seq_lengths"))
    inputs = [x.astype("float32") for x in (query, key, value)]
    if lengths[-1] is not None:
      inputs = map(undefined_gradient, inputs)
    out = plain(*inputs, implementation="xla", **masks).astype(query.dtype)
    return out if lengths[-1] is None else jnp.where(padding, jnp.nan, out)

  monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
  monkeypatch.setattr(sharding, "platform", lambda: "gpu")
  size, compute = TransformerConfig(16, 2, 32, 2), Compute("bfloat16", "cudnn", scan)
  tower = Transformer(size, compute)
  x = jnp.asarray(normal(0, 2, 33, 16), "bfloat16")
  params = jax.jit(tower.init)(jax.random.key(0), x)

  def run():
    apply = lambda p, x: tower.apply(p, x, mutable=["intermediates"])
    results = value_and_gradients(lambda p, x: apply(p, x)[0], params, x)
    return results, jax.tree.leaves(jax.jit(apply)(params, x)[1])

  lengths.clear()
  once, maps = run()
  assert lengths
  assert all(n is not None and n.shape == (2,) for n in lengths)
  lengths.clear()
  monkeypatch.setattr(layers, "evened", lambda x, *_: (x, None))
  each, expected = run()
  assert set(map(str, lengths)) == {"None"}
  for a, b in zip(once + maps, each + expected, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-2 * np.abs(b).max(), rtol=0)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("valid", [None, VALID])
@pytest.mark.parametrize("length", [8, 9])
def test_the_gpu_kernel_equals_plain_attention(length, valid, causal):
  inputs = [jnp.asarray(normal(i, 2, length, 3, 64), "bfloat16") for i in range(3)]
  valid = None if valid is None else valid[:, :length]
  exact = value_and_gradients(lambda *x: attend(*x, valid, "xla", causal), *inputs)
  ours = value_and_gradients(lambda *x: attend(*x, valid, "cudnn", causal), *inputs)
  for a, b in zip(ours, exact, strict=True):
    np.testing.assert_allclose(a, b, atol=3e-2 * np.abs(b).max(), rtol=0)


def test_invalid_keys_do_not_affect_values_or_gradients():
  query, key, value = (
    normal(0, 2, 7, 3, 8),
    normal(1, 2, 9, 3, 8),
    normal(2, 2, 9, 3, 8),
  )
  junk = np.where(VALID[:, :, None, None], 0, 1e4).astype(np.float32)
  clean = value_and_gradients(lambda *x: attend(*x, VALID), query, key, value)
  dirty = value_and_gradients(
    lambda *x: attend(*x, VALID), query, key + junk, value + junk
  )
  np.testing.assert_array_equal(clean[0], dirty[0])
  for grad in clean[2:]:
    assert not grad[~VALID].any()
    assert grad[VALID].any()


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5), (2, 2, 3, 5)])
def test_bfloat16_layers_equal_float32_layers_up_to_rounding(shape):
  x = normal(0, *shape)
  exact, rough = (
    Dense(4, ("embed", "mlp"), dtype) for dtype in ("float32", "bfloat16")
  )
  params = exact.init(jax.random.key(0), x)
  pairs = (
    value_and_gradients(lambda p, x, layer=layer: layer.apply(p, x), params, x)
    for layer in (exact, rough)
  )
  for a, b in zip(*pairs, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-2 * np.abs(a).max(), rtol=0)
