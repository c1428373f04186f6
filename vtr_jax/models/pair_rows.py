"""Rows [video ; text] of an encoder that reads several sets of them in one pass."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from vtr_jax.core.arrays import AnyArray
from vtr_jax.models.attention import Seen


class Rows(NamedTuple):
  """A set of rows, and which of their tokens see which."""

  tokens: Float[Array, "b n d"]
  valid: Bool[AnyArray, "b n"]
  split: int | None = None  # tokens before it and others do not see each other


def pair(
  x: Float[Array, "b k d"],
  y: Float[Array, "b l d"],
  valid: Bool[AnyArray, "b l"],
  *,
  apart: bool = False,
) -> Rows:
  """Rows of a video and a text; `apart`: neither sees the other."""
  tokens, k = jnp.concatenate([x, y], axis=1), x.shape[1]
  return Rows(tokens, valid_tokens(valid, k), k if apart else None)


def valid_tokens(text_valid: Bool[AnyArray, "b l"], k: int) -> Bool[Array, "b {k}+l"]:
  """Validity of [k video tokens ; text]; every video token is valid."""
  return jnp.pad(text_valid, ((0, 0), (k, 0)), constant_values=True)


def join(sets: Sequence[Rows], blocks: int) -> tuple[Float[Array, "_ n d"], Seen]:
  """(tokens of all sets, which see which), for one pass.

  Each set is cut into `blocks`, and the i-th blocks of all sets lie together: where a
  device holds whole blocks, nothing is communicated.
  """
  cut = lambda y: y.reshape(blocks, len(y) // blocks, *y.shape[1:])
  merge = lambda ys: _flat(jnp.concatenate([cut(y) for y in ys], axis=1))
  valid, groups = merge([r.valid for r in sets]), merge([_groups(r) for r in sets])
  return merge([r.tokens for r in sets]), Seen(valid, groups)


def separate(
  encoded: Float[Array, "_ n d"], sets: Sequence[Rows], blocks: int
) -> list[Float[Array, "_ n d"]]:
  """The rows of each set, from those of `join`."""
  ends = np.cumsum([len(r.tokens) // blocks for r in sets])
  in_blocks = encoded.reshape(blocks, ends[-1], *encoded.shape[1:])
  return [_flat(y) for y in jnp.split(in_blocks, ends[:-1].tolist(), axis=1)]


def _groups(rows: Rows) -> Int32[Array, "b n"]:
  """Numbers of the groups of tokens that see each other."""
  count = rows.tokens.shape[1]
  groups = np.arange(count) >= (count if rows.split is None else rows.split)
  return jnp.broadcast_to(jnp.asarray(groups, jnp.int32)[None], rows.tokens.shape[:2])


def _flat(y: Array) -> Array:
  return y.reshape(-1, *y.shape[2:])
