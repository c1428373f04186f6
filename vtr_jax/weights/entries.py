"""What one key of a foreign file is in our tree, in both directions."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

Arrays = tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Entry:
  """Some of their arrays make some of ours, and the other way round."""

  theirs: tuple[str, ...]  # keys of the file
  ours: tuple[str, ...]  # paths of our tree, blocks not stacked
  load: Callable[..., Arrays]  # (their arrays) -> ours
  save: Callable[..., Arrays]  # (our arrays) -> theirs
  note: str = ""  # what is left out, and why nothing is lost
  spare: tuple[str, ...] = ()  # of theirs: may be absent, None is loaded for it


Entries = Iterator[Entry]
_KEY_BIAS = (
  "a key's bias changes no output: it adds one number to all of a query's scores"
)


def plain(theirs: str, ours: str) -> Entry:
  return Entry((theirs,), (ours,), lambda x: (x,), lambda x: (x,))


def words(theirs: str, ours: str, mask_id: int) -> Entry:
  """Of a vocabulary without a mask token: ours may have its row behind theirs."""

  def save(x: np.ndarray) -> Arrays:
    return (x[:-1] if mask_id == len(x) - 1 else x,)

  return Entry((theirs,), (ours,), lambda x: (x,), save)


def transposed(theirs: str, ours: str) -> Entry:
  """PyTorch's [out, in] and our [in, out]."""
  return Entry((theirs,), (ours,), lambda x: (x.T,), lambda x: (x.T,))


def flat(theirs: str, ours: str, axes: int) -> Entry:
  """`axes` leading axes of length 1 that we do not have."""
  lead = (1,) * axes
  return Entry(
    (theirs,),
    (ours,),
    lambda x: (x.reshape(x.shape[axes:]),),
    lambda x: (x.reshape(lead + x.shape),),
  )


def linear(theirs: str, ours: str) -> Entries:
  yield transposed(f"{theirs}.weight", f"{ours}/kernel")
  yield plain(f"{theirs}.bias", f"{ours}/bias")


def norm(theirs: str, ours: str) -> Entries:
  yield plain(f"{theirs}.weight", f"{ours}/scale")
  yield plain(f"{theirs}.bias", f"{ours}/bias")


def mlp(up: str, down: str, ours: str) -> Entries:
  yield from linear(up, f"{ours}/up")
  yield from linear(down, f"{ours}/down")


def attention(query: str, key: str, value: str, out: str, ours: str) -> Entries:
  """Four linear layers; the key's bias is left out."""
  yield from linear(value, f"{ours}/value")
  yield from linear(out, f"{ours}/out")
  yield transposed(f"{query}.weight", f"{ours}/query/kernel")
  yield transposed(f"{key}.weight", f"{ours}/key/kernel")
  yield Entry(
    (f"{query}.bias", f"{key}.bias"),
    (f"{ours}/query/bias",),
    lambda query, key: (query,),
    lambda query: (query, np.zeros_like(query)),
    _KEY_BIAS,
    spare=(f"{key}.bias",),
  )


def fused(weight: str, bias: str, out: str, ours: str) -> Entries:
  """Query, key and value in one matrix [3 d, d] and one bias [3 d]."""
  yield from _fused_kernel(weight, ours)
  yield Entry(
    (bias,),
    (f"{ours}/query/bias", f"{ours}/value/bias"),
    lambda x: tuple(np.split(x, 3)[::2]),
    lambda query, value: (np.concatenate([query, np.zeros_like(query), value]),),
    _KEY_BIAS,
  )
  yield from linear(out, f"{ours}/out")


def fused_without_key_bias(theirs: str, ours: str) -> Entries:
  """VideoMAE's: one matrix, and the biases of query and value apart."""
  yield from _fused_kernel(f"{theirs}.qkv.weight", ours)
  yield plain(f"{theirs}.q_bias", f"{ours}/query/bias")
  yield plain(f"{theirs}.v_bias", f"{ours}/value/bias")
  yield from linear(f"{theirs}.proj", f"{ours}/out")


def _fused_kernel(weight: str, ours: str) -> Entries:
  yield Entry(
    (weight,),
    tuple(f"{ours}/{part}/kernel" for part in ("query", "key", "value")),
    lambda x: tuple(part.T for part in np.split(x, 3)),
    lambda *parts: (np.concatenate([part.T for part in parts]),),
  )


def patches(weight: str, ours: str, tubelet: tuple[int, int, int]) -> Entry:
  """A convolution [d, c, h, w], or [d, c, t, h, w], whose stride is its kernel.

  Ours is a matrix [t h w c, d]. `tubelet` says how long tubelets are in a file that
  is written; a two-dimensional kernel is written if they have one frame.
  """

  def load(x: np.ndarray) -> Arrays:
    return (np.moveaxis(x, (0, 1), (-1, -2)).reshape(-1, x.shape[0]),)

  def save(x: np.ndarray) -> Arrays:
    sizes = tubelet if tubelet[0] > 1 else tubelet[1:]
    return (np.moveaxis(x.reshape(*sizes, 3, -1), (-1, -2), (0, 1)),)

  return Entry((weight,), (ours,), load, save)


def bert_positions(positions: str, types: str, ours: str) -> Entry:
  """BERT adds the first of two token types to every token; we add it to positions."""
  return Entry(
    (positions, types),
    (ours,),
    lambda positions, types: (positions if types is None else positions + types[:1],),
    lambda x: (x, np.zeros((2, x.shape[1]), x.dtype)),
    "token type 0 is added to the positions; captions have no second type",
    spare=(types,),
  )
