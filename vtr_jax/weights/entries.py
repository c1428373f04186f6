"""Correspondences between keys of a weights file and parameter paths, both ways."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

Arrays = tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Entry:
  """Arrays of a file that become parameters of the model, and the inverse."""

  keys: tuple[str, ...]  # of the file
  paths: tuple[str, ...]  # of the model's parameters, layers not stacked
  load: Callable[..., Arrays]  # (arrays of the keys) -> arrays of the paths
  save: Callable[..., Arrays]  # the inverse
  note: str = ""  # on arrays that are dropped or merged, with the reason
  optional: tuple[str, ...] = ()  # keys that may be absent; `load` then gets None


Entries = Iterator[Entry]
_KEY_BIAS = (
  "the bias of attention keys is dropped: it adds a constant to all logits of a query"
)


def plain(key: str, path: str) -> Entry:
  return Entry((key,), (path,), lambda x: (x,), lambda x: (x,))


def token_embeddings(key: str, path: str, mask_id: int) -> Entry:
  """Of a vocabulary without a mask token: the model may have one more row for it."""

  def save(x: np.ndarray) -> Arrays:
    return (x[:-1] if mask_id == len(x) - 1 else x,)

  return Entry((key,), (path,), lambda x: (x,), save)


def transposed(key: str, path: str) -> Entry:
  """[out, in] in the file (PyTorch), [in, out] in the model (Flax)."""
  return Entry((key,), (path,), lambda x: (x.T,), lambda x: (x.T,))


def squeezed(key: str, path: str, axes: int) -> Entry:
  """The file has `axes` leading axes of length 1 that the model does not have."""
  lead = (1,) * axes
  return Entry(
    (key,),
    (path,),
    lambda x: (x.reshape(x.shape[axes:]),),
    lambda x: (x.reshape(lead + x.shape),),
  )


def linear(prefix: str, path: str) -> Entries:
  yield transposed(f"{prefix}.weight", f"{path}/kernel")
  yield plain(f"{prefix}.bias", f"{path}/bias")


def norm(prefix: str, path: str) -> Entries:
  yield plain(f"{prefix}.weight", f"{path}/scale")
  yield plain(f"{prefix}.bias", f"{path}/bias")


def mlp(up: str, down: str, path: str) -> Entries:
  yield from linear(up, f"{path}/up")
  yield from linear(down, f"{path}/down")


def attention(layers: Sequence[str], path: str) -> Entries:
  """Linear layers query, key, value and output; the bias of the keys is dropped."""
  query, key, value, out = layers
  yield from linear(value, f"{path}/value")
  yield from linear(out, f"{path}/out")
  yield transposed(f"{query}.weight", f"{path}/query/kernel")
  yield transposed(f"{key}.weight", f"{path}/key/kernel")
  yield Entry(
    (f"{query}.bias", f"{key}.bias"),
    (f"{path}/query/bias",),
    lambda query, key: (query,),
    lambda query: (query, np.zeros_like(query)),
    _KEY_BIAS,
    optional=(f"{key}.bias",),
  )


def fused_attention(weight: str, bias: str, out: str, path: str) -> Entries:
  """Query, key and value in one matrix [3 d, d] and one bias [3 d]."""
  yield from _fused_kernel(weight, path)
  yield Entry(
    (bias,),
    (f"{path}/query/bias", f"{path}/value/bias"),
    lambda x: tuple(np.split(x, 3)[::2]),
    lambda query, value: (np.concatenate([query, np.zeros_like(query), value]),),
    _KEY_BIAS,
  )
  yield from linear(out, f"{path}/out")


def fused_attention_without_key_bias(prefix: str, path: str) -> Entries:
  """VideoMAE's: one matrix, and separate biases of query and value."""
  yield from _fused_kernel(f"{prefix}.qkv.weight", path)
  yield plain(f"{prefix}.q_bias", f"{path}/query/bias")
  yield plain(f"{prefix}.v_bias", f"{path}/value/bias")
  yield from linear(f"{prefix}.proj", f"{path}/out")


def _fused_kernel(weight: str, path: str) -> Entries:
  yield Entry(
    (weight,),
    tuple(f"{path}/{part}/kernel" for part in ("query", "key", "value")),
    lambda x: tuple(part.T for part in np.split(x, 3)),
    lambda *parts: (np.concatenate([part.T for part in parts]),),
  )


def patches(
  weight: str, path: str, tubelet: tuple[int, int, int], flat: bool = True
) -> Entry:
  """A convolution [d, c, h, w], or [d, c, t, h, w], whose stride is its kernel size.

  The model has a matrix [t h w c, d]. `tubelet` is the kernel size (t, h, w) to save;
  for t = 1 a two-dimensional kernel is saved, unless `flat` is False.
  """

  def load(x: np.ndarray) -> Arrays:
    return (np.moveaxis(x, (0, 1), (-1, -2)).reshape(-1, x.shape[0]),)

  def save(x: np.ndarray) -> Arrays:
    sizes = tubelet[1:] if flat and tubelet[0] == 1 else tubelet
    return (np.moveaxis(x.reshape(*sizes, 3, -1), (-1, -2), (0, 1)),)

  return Entry((weight,), (path,), load, save)


def bert_positions(positions: str, types: str, path: str) -> Entry:
  """BERT adds token type 0 to every token; here the positions include it."""
  return Entry(
    (positions, types),
    (path,),
    lambda positions, types: (positions if types is None else positions + types[:1],),
    lambda x: (x, np.zeros((2, x.shape[1]), x.dtype)),
    "token type 0 is added to the positions; captions have no second type",
    optional=(types,),
  )
