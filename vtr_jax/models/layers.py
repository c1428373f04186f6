"""Transformer parts shared by every tower: Dense, Attention, Block, Transformer.

Parameters are float32 and carry logical axis names (core/sharding.py maps them
to the mesh); activations have `Compute.dtype`, which is not "auto" any more where a
model is built; softmax and normalisation are float32.
Initialisation is VideoMAE's: Xavier-uniform kernels, zero biases.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from vtr_jax.core import precision, sharding
from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.config import choose, require
from vtr_jax.models.attention import IMPLEMENTATIONS, Seen, attend, einsum, evened
from vtr_jax.models.norm_gelu import GELUS, LayerNorm

_XAVIER = nn.initializers.xavier_uniform()


def logical(init: Callable[..., Array], axes: tuple[str, ...]) -> Callable[..., Any]:
  """`init` with logical axis names. Any: `self.param` unboxes what this returns."""
  return nn.with_logical_partitioning(init, axes)


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """Size of one transformer."""

  width: int  # of the tokens
  depth: int  # number of blocks
  mlp_dim: int  # width of the MLP's hidden layer
  num_heads: int  # of attention
  # of its LayerNorms, where weights differ from their architecture; 0 = its own; ours
  epsilon: float = 0.0
  # kind of GELU, likewise, see models/norm_gelu.py; "" = the architecture's; ours
  gelu: str = ""

  def __post_init__(self):
    require(self.epsilon >= 0, f"epsilon: {self.epsilon} must not be negative")
    choose(self.gelu, ("", *GELUS), "gelu")
    require(
      self.width % self.num_heads == 0,
      f"num_heads: {self.num_heads} does not divide width {self.width}",
    )

  def adapted(self, kind: "BlockConfig") -> "BlockConfig":
    """An architecture's blocks with the epsilon and the GELU that are set here."""
    return dataclasses.replace(
      kind, epsilon=self.epsilon or kind.epsilon, gelu=self.gelu or kind.gelu
    )


@dataclasses.dataclass(frozen=True)
class BlockConfig:
  """How the blocks of an architecture differ; the defaults are ViT's."""

  epsilon: float = 1e-6  # of every LayerNorm
  gelu: str = "exact"  # exact | quick | tanh | relu, see models/norm_gelu.py
  causal: bool = False  # each token attends to itself and earlier ones
  logit_cap: float = 0.0  # of attention, see `attention.attend`; 0 = none
  key_bias: bool = False  # with a cap, softmax does not cancel it
  zero_centred: bool = False  # scales of LayerNorms are stored without their 1

  def norm(self, dtype: str) -> Callable[..., LayerNorm]:
    """The architecture's LayerNorm, without a name."""
    return functools.partial(LayerNorm, self.epsilon, dtype, self.zero_centred)


VIT = BlockConfig()

# What the backward pass of a block reads, but for the outputs of norms and GELU.
_KEPT = ("query", "key", "value", "probs", "attended", "sum", "hidden")
_REMAT = dict(
  none=None,
  norms=jax.checkpoint_policies.save_only_these_names(*_KEPT),
  dots=jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # the rest is cheap
  full=jax.checkpoint_policies.nothing_saveable,
  # Products are kept in pinned host memory; for back ends that have it.
  offload=jax.checkpoint_policies.offload_dot_with_no_batch_dims(
    "device", "pinned_host"
  ),
)


@dataclasses.dataclass(frozen=True)
class Compute:
  """How the same function is computed; no choice changes the parameters' meaning."""

  # of activations: auto (core/precision.py; a run keeps the first choice) | float32 |
  # bfloat16; ours (the papers' code: float32)
  dtype: str = "auto"
  # auto | xla | cudnn | pallas, see models/attention.py; ours
  attention: str = "auto"
  # one compiled block for all layers, parameters stacked: half the time to compile, but
  # the loop stores all residuals (plans for TPUs, docs/scale.md); ours
  scan: bool = False
  # what the backward pass recomputes: none | norms (and GELU) | dots | full | offload;
  # ours
  remat: str = "none"

  def __post_init__(self):
    choose(self.dtype, precision.DTYPES, "dtype")
    choose(self.attention, IMPLEMENTATIONS, "attention")
    choose(self.remat, _REMAT, "remat")
    require(
      self.attention != "cudnn" or self.dtype != "float32",
      f"attention: 'cudnn' has no {self.dtype}; set 'auto', or dtype = 'bfloat16'",
    )


@jax.custom_vjp
def product(
  x: Float[Array, "*b i"], kernel: Float[Array, "i o"]
) -> Float[Array, "*b o"]:
  """x @ kernel, accumulated in float32, as are its gradients; see `_written`."""
  written = _written(x)
  return einsum(
    "...i,io->...o", x, kernel.astype(x.dtype), preferred_element_type=written
  )


def _written(x: Array) -> Any:
  """The dtype in which a product of `x` is written.

  float32, so that adding a bias rounds once; but a GPU's library then writes and reads
  twice the bytes, and adds a bias of the product's own dtype in the same kernel.
  """
  return x.dtype if sharding.platform() == "gpu" else jnp.float32


def _product_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
  return product(x, kernel), (x, kernel)


def _product_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
  x, kernel = saved
  g, rows = g.astype(x.dtype), tuple(range(x.ndim - 1))
  kernel = kernel.astype(x.dtype)
  to_x = einsum("...o,io->...i", g, kernel, preferred_element_type=_written(x))
  dims = ((rows, rows), ((), ()))
  to_kernel = jax.lax.dot_general(x, g, dims, preferred_element_type=jnp.float32)
  return to_x.astype(x.dtype), to_kernel


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
  kernel_init: Callable[..., Array] = _XAVIER

  @nn.compact
  def __call__(self, x: Float[AnyArray, "*b i"]) -> Float[Array, "*b o"]:
    shape = (x.shape[-1], self.features)
    kernel = self.param("kernel", logical(self.kernel_init, self.axes), shape)
    if self.dtype == "bfloat16":
      y = product(x.astype(self.dtype), kernel)
    else:
      y = x.astype(kernel.dtype).reshape(-1, shape[0]) @ kernel
      y = y.reshape(*x.shape[:-1], self.features)
    if self.use_bias:
      axis = "norm" if self.axes[1] == "embed" else self.axes[1]
      init = logical(nn.initializers.zeros_init(), (axis,))
      bias = self.param("bias", init, shape[1:])
      y += jax.lax.broadcast_to_rank(bias, y.ndim).astype(y.dtype)
    return y.astype(self.dtype)


def activation(x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
  """Shards activations over the batch alone, however the parameters are sharded."""
  return nn.with_logical_constraint(x, ("batch", None, None))


def multi_head(
  module: nn.Module,
  mix: Callable[[Array, Array, Array], Array],
  queries: Float[AnyArray, "#b m d"],
  memory: Float[Array, "b n d"],
  num_heads: int,
  dtype: str,
  inits: tuple[Callable[..., Array], Callable[..., Array]] = (_XAVIER, _XAVIER),
  *,
  key_bias: bool = False,
  inner: int = 0,
  query_scale: Float[Array, " e"] | None = None,
  length: int | None = None,
) -> Float[Array, "b m d"]:
  """Multi-head attention of `queries` to `memory`, inside `module`'s compact method.

  Keys have no bias by default: it would add a constant to all scores of a query, which
  softmax cancels. VideoMAE and SimVTP leave it out for the same reason.

  Args:
    module: owns the parameters `query`, `key`, `value` and `out`.
    mix: (query, key, value), each [b, tokens, heads, width of a head], to the
      attention's output of the query's shape.
    queries: one row serves all rows of `memory`.
    memory: tokens that are attended to.
    num_heads: of equal width.
    dtype: of activations.
    inits: of the kernels of (query, key, value), and of output.
    key_bias: whether keys have a bias.
    inner: width of all heads together; 0 = that of the tokens.
    query_scale: factor of each channel of a head.
    length: number of tokens before the padding of `Seen.length`; None = all.
  """
  width = memory.shape[-1]
  inner = inner or width
  project = functools.partial(
    Dense, inner, ("embed", "heads"), dtype, kernel_init=inits[0]
  )
  split = lambda y: y.reshape(*y.shape[:2], num_heads, inner // num_heads)
  query = split(project(name="query")(queries))
  if query_scale is not None:
    query *= query_scale.astype(dtype)[None, None, None]
  key = split(project(use_bias=key_bias, name="key")(memory))
  value = split(project(name="value")(memory))
  query = jnp.broadcast_to(query, (memory.shape[0], *query.shape[1:]))
  named = zip((query, key, value), _KEPT[:3], strict=True)
  query, key, value = (checkpoint_name(x, name) for x, name in named)
  real = query[:, :length], key[:, :length]
  module.sow("intermediates", "heads", real)  # read by figures alone
  y = checkpoint_name(mix(query, key, value), "attended")
  y = y.reshape(*y.shape[:2], inner)
  return Dense(width, ("heads", "embed"), dtype, kernel_init=inits[1], name="out")(y)


class Attention(nn.Module):
  """Multi-head self-attention."""

  num_heads: int
  compute: Compute
  kind: BlockConfig = VIT

  @nn.compact
  def __call__(
    self, x: Float[Array, "b n d"], valid: Bool[AnyArray, "b n"] | Seen | None = None
  ) -> Float[Array, "b n d"]:
    seen = valid if isinstance(valid, Seen) else Seen(valid, None)

    def mix(query: Array, key: Array, value: Array) -> Array:
      with jax.named_scope("attend"):
        how, kind = self.compute.attention, self.kind
        masks = seen.valid, how, kind.causal, kind.logit_cap, seen.groups, seen.length
        return attend(query, key, value, *masks)

    heads, dtype, key_bias = self.num_heads, self.compute.dtype, self.kind.key_bias
    return multi_head(
      self, mix, x, x, heads, dtype, key_bias=key_bias, length=seen.length
    )


class Mlp(nn.Module):
  """Two layers with a GELU between them, computed in float32."""

  hidden: int
  dtype: str
  gelu: str = "exact"

  @nn.compact
  def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    y = Dense(self.hidden, ("embed", "mlp"), self.dtype, name="up")(x)
    y = checkpoint_name(y, "hidden")
    return Dense(x.shape[-1], ("mlp", "embed"), self.dtype, name="down")(
      GELUS[self.gelu](y)
    )


def drop_path(
  module: nn.Module, y: Float[Array, "b n d"], rate: Float[Array, ""] | None
) -> Float[Array, "b n d"]:
  """Stochastic depth (arXiv 1603.09382) of a residual branch, as in timm.

  Args:
    module: whose rng "dropout" is drawn from.
    y: the branch's output.
    rate: chance that all of a row is 0, below 1; other rows are divided by 1 - rate.
      None returns `y` and draws nothing.
  """
  if rate is None:
    return y
  keep = 1 - rate
  kept = jax.random.bernoulli(module.make_rng("dropout"), keep, (y.shape[0], 1, 1))
  return jnp.where(kept, y / keep.astype(y.dtype), 0)


class Block(nn.Module):
  """Pre-norm transformer block (ViT, VideoMAE, CLIP); `drop_rate` as `drop_path`."""

  size: TransformerConfig
  compute: Compute
  kind: BlockConfig = VIT

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b n d"],
    valid: Bool[AnyArray, "b n"] | Seen | None = None,
    drop_rate: Float[Array, ""] | None = None,
  ) -> Float[Array, "b n d"]:
    kind, dtype = self.kind, self.compute.dtype
    norm = kind.norm(dtype)
    attention = Attention(self.size.num_heads, self.compute, kind, name="attention")
    x += drop_path(self, attention(norm(name="norm_attention")(x), valid), drop_rate)
    x = checkpoint_name(x, "sum")
    mlp = Mlp(self.size.mlp_dim, dtype, kind.gelu, name="mlp")
    x += drop_path(self, mlp(norm(name="norm_mlp")(x)), drop_rate)
    return activation(x)


def run_blocks(
  block: type[nn.Module],
  fields: tuple,
  depth: int,
  compute: Compute,
  x: Float[Array, "b n d"],
  valid: Bool[AnyArray, "b n"] | Seen | None = None,
  drop_path: float | Sequence[float] = 0.0,
) -> Float[Array, "b n d"]:
  """`depth` blocks `block(*fields)`, inside a compact method; see `Compute`.

  Args:
    block: called with (x, valid), and with its rate if there is drop path.
    fields: of the block.
    depth: number of blocks.
    compute: how they are computed.
    x: tokens.
    valid: tokens that are attended to; None = all.
    drop_path: of the last block, in [0, 1); rates grow linearly from 0 in the first
      one (timm). Or the rate of each block. Only training sets it: 0 draws nothing.
  """
  count, rates = x.shape[1], None
  if valid is None and block is Block:
    size, _, kind = fields
    x, valid = evened(x, compute.attention, size.num_heads, kind.logit_cap)
  if np.any(drop_path):
    each = np.linspace(0, drop_path, depth) if np.ndim(drop_path) == 0 else drop_path
    rates = jnp.asarray(each, jnp.float32)

  def run(layer: Any, x: Array, rate: Array | None) -> Array:
    return layer(x, valid) if rate is None else layer(x, valid, rate)

  if compute.remat != "none":
    block = nn.remat(block, policy=_REMAT[compute.remat], prevent_cse=not compute.scan)
  if compute.scan:
    step = nn.scan(
      lambda layer, x, rate: (run(layer, x, rate), None),
      variable_axes={"params": 0, "intermediates": 0},
      split_rngs={"params": True, "dropout": True},
      length=depth,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    return step(block(*fields, name="blocks"), x, rates)[0][:, :count]
  for i in range(depth):
    layer = block(*fields, name=f"block_{i}")
    x = run(layer, x, None if rates is None else rates[i])
  return x[:, :count]


class Transformer(nn.Module):
  """`depth` blocks and a final LayerNorm; `drop_path` as in `run_blocks`."""

  size: TransformerConfig
  compute: Compute
  kind: BlockConfig = VIT
  norm_last: bool = True

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b n d"],
    valid: Bool[AnyArray, "b n"] | Seen | None = None,
    *,
    drop_path: float | Sequence[float] = 0.0,
  ) -> Float[Array, "b n d"]:
    x = activation(x.astype(self.compute.dtype))
    kind = self.size.adapted(self.kind)
    fields = self.size, self.compute, kind
    x = run_blocks(Block, fields, self.size.depth, self.compute, x, valid, drop_path)
    if not self.norm_last:
      return x
    return activation(kind.norm(self.compute.dtype)(name="norm")(x))


def l2_normalize(x: Float[AnyArray, "*b d"]) -> Float[Array, "*b d"]:
  """Divides vectors by their norm (at least 1e-8, as in Frozen), in float32."""
  x = jnp.asarray(x, jnp.float32)
  # The square root's gradient at 0 is infinite; the bound goes inside.
  return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-16))
