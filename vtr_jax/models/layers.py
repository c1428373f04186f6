"""Transformer parts shared by every tower: Dense, Attention, Block, Transformer.

Parameters are float32 and carry logical axis names (sharding.py maps them to the
mesh); activations have `Compute.dtype`; softmax and normalisation are float32.
Initialisation is VideoMAE's: Xavier-uniform kernels, zero biases.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.config import choose, require
from vtr_jax.models.attention import IMPLEMENTATIONS, attend, einsum
from vtr_jax.models.norm_gelu import GELUS, LayerNorm

logical = nn.with_logical_partitioning


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """Size of one transformer."""

  width: int  # of the tokens
  depth: int  # number of blocks
  mlp_dim: int  # width of the MLP's hidden layer
  num_heads: int  # of attention

  def __post_init__(self):
    require(
      self.width % self.num_heads == 0,
      f"num_heads: {self.num_heads} does not divide width {self.width}",
    )


@dataclasses.dataclass(frozen=True)
class BlockConfig:
  """What the blocks of one family of models do their own way; ViT's if not said."""

  epsilon: float = 1e-6  # of every LayerNorm
  gelu: str = "exact"  # exact | quick | tanh, see models/pointwise.py
  causal: bool = False  # whether a token attends to no later one


VIT = BlockConfig()

_REMAT = dict(
  none=None,
  dots=jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # the rest is cheap
  full=jax.checkpoint_policies.nothing_saveable,
  # Products wait in the host's memory; for back ends that have that kind.
  offload=jax.checkpoint_policies.offload_dot_with_no_batch_dims(
    "device", "pinned_host"
  ),
)


@dataclasses.dataclass(frozen=True)
class Compute:
  """How the same numbers are computed; no choice changes the parameters' meaning."""

  # of activations: float32 | bfloat16; ours (the papers' code: float32)
  dtype: str = "bfloat16"
  attention: str = "xla"  # xla | cudnn | splash, see models/attention.py; ours
  scan: bool = True  # one compiled block for all layers, stacked parameters; ours
  # what the backward pass recomputes: none | dots | full | offload; ours
  remat: str = "none"

  def __post_init__(self):
    choose(self.dtype, ("float32", "bfloat16"), "dtype")
    choose(self.attention, IMPLEMENTATIONS, "attention")
    choose(self.remat, _REMAT, "remat")


@jax.custom_vjp
def product(
  x: Float[Array, "*b i"], kernel: Float[Array, "i o"]
) -> Float[Array, "*b o"]:
  """x @ kernel in x's dtype, float32 out; so are the products of its gradients."""
  return einsum("...i,io->...o", x, kernel.astype(x.dtype))


def _product_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
  return product(x, kernel), (x, kernel)


def _product_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
  x, kernel = saved
  g, rows = g.astype(x.dtype), tuple(range(x.ndim - 1))
  to_x = einsum("...o,io->...i", g, kernel.astype(x.dtype)).astype(x.dtype)
  dims = ((rows, rows), ((), ()))
  return to_x, jax.lax.dot_general(x, g, dims, preferred_element_type=jnp.float32)


product.defvjp(_product_forward, _product_backward)


class Dense(nn.Module):
  """Linear layer over the last axis; `axes` names the kernel's logical axes.

  A float32 product is taken over one flattened axis: XLA's CPU back end is slow at
  float32 weight gradients that contract several axes, and at bfloat16 ones that
  contract one.
  """

  features: int
  axes: tuple[str, str]
  dtype: str
  use_bias: bool = True
  kernel_init: Callable[..., Array] = nn.initializers.xavier_uniform()

  @nn.compact
  def __call__(self, x: Float[AnyArray, "*b i"]) -> Float[AnyArray, "*b o"]:
    shape = (x.shape[-1], self.features)
    kernel = self.param("kernel", logical(self.kernel_init, self.axes), shape)
    if self.dtype == "bfloat16":
      y = product(x.astype(self.dtype), kernel)
    else:
      y = (x.reshape(-1, shape[0]) @ kernel).reshape(*x.shape[:-1], self.features)
    if self.use_bias:
      axis = "norm" if self.axes[1] == "embed" else self.axes[1]
      init = logical(nn.initializers.zeros_init(), (axis,))
      bias = self.param("bias", init, shape[1:])
      y += jax.lax.broadcast_to_rank(bias, y.ndim)
    return y.astype(self.dtype)


def activation(x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
  """Keeps activations split over the batch alone, whatever the parameters are."""
  return nn.with_logical_constraint(x, ("batch", None, None))


class Attention(nn.Module):
  """Multi-head self-attention.

  Keys have no bias: it would add one number to all scores of a query, and softmax
  takes that away again. VideoMAE and SimVTP leave it out for the same reason.
  """

  num_heads: int
  compute: Compute
  causal: bool = False

  @nn.compact
  def __call__(
    self, x: Float[Array, "b n d"], valid: Bool[AnyArray, "b n"] | None = None
  ) -> Float[Array, "b n d"]:
    b, n, d = x.shape
    dense = functools.partial(Dense, d, dtype=self.compute.dtype)
    split = lambda y: y.reshape(b, n, self.num_heads, d // self.num_heads)
    query = split(dense(("embed", "heads"), name="query")(x))
    key = split(dense(("embed", "heads"), use_bias=False, name="key")(x))
    value = split(dense(("embed", "heads"), name="value")(x))
    self.sow("intermediates", "heads", (query, key))  # for pictures; else nothing
    with jax.named_scope("attend"):
      y = attend(query, key, value, valid, self.compute.attention, self.causal)
    return dense(("heads", "embed"), name="out")(y.reshape(b, n, d))


class Mlp(nn.Module):
  """Two layers with a GELU between them, computed in float32."""

  hidden: int
  dtype: str
  gelu: str = "exact"

  @nn.compact
  def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    y = Dense(self.hidden, ("embed", "mlp"), self.dtype, name="up")(x)
    return Dense(x.shape[-1], ("mlp", "embed"), self.dtype, name="down")(
      GELUS[self.gelu](y)
    )


class Block(nn.Module):
  """Pre-norm transformer block (ViT, VideoMAE, CLIP)."""

  size: TransformerConfig
  compute: Compute
  kind: BlockConfig = VIT

  @nn.compact
  def __call__(
    self, x: Float[Array, "b n d"], valid: Bool[AnyArray, "b n"] | None = None
  ) -> Float[Array, "b n d"]:
    kind, dtype = self.kind, self.compute.dtype
    norm = functools.partial(LayerNorm, kind.epsilon, dtype)
    heads = self.size.num_heads
    attention = Attention(heads, self.compute, kind.causal, name="attention")
    x += attention(norm(name="norm_attention")(x), valid)
    mlp = Mlp(self.size.mlp_dim, dtype, kind.gelu, name="mlp")
    x += mlp(norm(name="norm_mlp")(x))
    return activation(x)


def run_blocks(
  block: type[nn.Module],
  fields: tuple,
  depth: int,
  compute: Compute,
  x: Float[Array, "b n d"],
  valid: Bool[AnyArray, "b n"] | None = None,
) -> Float[Array, "b n d"]:
  """`depth` times `block(*fields)`, inside a compact method; scan, remat as chosen."""
  if compute.remat != "none":
    block = nn.remat(block, policy=_REMAT[compute.remat], prevent_cse=not compute.scan)
  if compute.scan:
    step = nn.scan(
      lambda layer, x, valid: (layer(x, valid), None),
      variable_axes={"params": 0, "intermediates": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=nn.broadcast,
      length=depth,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    return step(block(*fields, name="blocks"), x, valid)[0]
  for i in range(depth):
    x = block(*fields, name=f"block_{i}")(x, valid)
  return x


class Transformer(nn.Module):
  """`depth` blocks and a last LayerNorm, with optional scan and remat."""

  size: TransformerConfig
  compute: Compute
  kind: BlockConfig = VIT
  norm_last: bool = True

  @nn.compact
  def __call__(
    self, x: Float[Array, "b n d"], valid: Bool[AnyArray, "b n"] | None = None
  ) -> Float[Array, "b n d"]:
    x = activation(x.astype(self.compute.dtype))
    fields = self.size, self.compute, self.kind
    x = run_blocks(Block, fields, self.size.depth, self.compute, x, valid)
    if not self.norm_last:
      return x
    norm = LayerNorm(self.kind.epsilon, self.compute.dtype, name="norm")
    return activation(norm(x))


def l2_normalize(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
  """Divides rows by their length (at least 1e-8, as in Frozen), in float32."""
  x = x.astype(jnp.float32)
  # The square root's gradient at 0 is infinite; the bound goes inside.
  return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-16))
