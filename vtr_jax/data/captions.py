"""What an empty caption is: the same for prepare, training, evaluation and search.

`blank` needs no vocabulary. A vocabulary may also leave no token of a text that can be
seen, such as punctuation (SigLIP) or an accent alone; `empty` finds both.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from vtr_jax.core.errors import BadSample, DataError

# Python counts these as printable, but they show nothing: Unicode's default ignorable
# characters that are letters or marks, and the Braille blank.
_UNSEEN = re.compile(
  "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
  "\U000e0100-\U000e01ef]"
)
_PLAIN = re.compile("[0-9A-Za-z]")
_SHOWN = 3  # ours: of a list in one line


@runtime_checkable
class Encoder(Protocol):
  """The part of a tokenizer that is needed here; see `tokenizers.base.Tokenizer`."""

  def encode(self, caption: str, length: int) -> Any:
    """Raises BadSample if the caption is empty."""
    ...


def blank(text: str) -> bool:
  """Whether a text shows nothing: no character, or white and invisible ones alone."""
  seen = lambda c: c.isprintable() and not c.isspace() and not _UNSEEN.match(c)
  return not any(map(seen, text))


def empty(tokenizer: Encoder, texts: Sequence[str]) -> Iterator[tuple[int, str]]:
  """(number, reason) of the texts that cannot be encoded: most have no token."""
  for number, text in enumerate(texts):
    if text.isascii() and _PLAIN.search(text):
      continue  # every vocabulary keeps these
    if blank(text):  # of which some vocabularies have tokens
      yield number, f"{text[:40]!r}: empty caption"
      continue
    try:
      tokenizer.encode(text, 2)
    except BadSample as e:
      yield number, f"{text[:40]!r}: {e}"


def told(
  found: Sequence[tuple[int, str]], total: int, name: Callable[[int], str]
) -> str:
  """One clause with the number of texts that `empty` has found, and the first of them.

  Args:
    found: by `empty`; at least one.
    total: number of texts.
    name: of the text of a number, as the user knows it.
  """
  shown = ", ".join(f"{name(number)} ({why})" for number, why in found[:_SHOWN])
  more = " ..." if len(found) > _SHOWN else ""
  return f"{len(found)} of {total} texts cannot be used: {shown}{more}; correct them"


def check(
  tokenizer: Encoder, texts: Sequence[str], where: str, name: Callable[[int], str]
) -> None:
  """Refuses texts if one is `empty`.

  Args:
    tokenizer: of the model.
    texts: to encode.
    where: beginning of the message.
    name: as of `told`.

  Raises:
    DataError: it lists the first of them.
  """
  if found := list(empty(tokenizer, texts)):
    raise DataError(f"{where}: {told(found, len(texts), name)}")
