"""Requests and responses of the page: JSON, checked key by key."""

import base64
import hashlib
import json
from typing import Any, NamedTuple

from vtr_jax.core.errors import ConfigError
from vtr_jax.data.captions import blank
from vtr_jax.search.query import Query
from vtr_jax.search.server.delivery import HTTPError

# Ours.
_MAX_TEXT = 20_000  # characters; models read about 60 tokens
_MAX_TOP = 500
TOP = 24  # default number of hits


class Search(NamedTuple):
  """The object that /api/search takes, parsed; unknown keys are rejected.

  query: from the keys text, image (base64), like ([index, row] of a clip), top, rerank
  and folder. clip: key of the clip that `like` means (`key_of`); "" trusts the row.
  """

  query: Query
  clip: str = ""


def parsed(body: bytes) -> Search:
  """The search of a request body; raises HTTPError."""
  try:
    fields = json.loads(body)
  except (ValueError, RecursionError):
    raise HTTPError(400, "not JSON") from None
  if not isinstance(fields, dict):
    raise HTTPError(400, "not a JSON object")
  kinds = dict(text=str, image=str, like=list, clip=str, folder=str)
  kinds |= dict(top=int, rerank=int)
  for key, value in fields.items():
    if key not in kinds:
      raise HTTPError(400, f"unknown key {key[:40]!a}")
    if type(value) is not kinds[key]:
      raise HTTPError(400, f"{key}: must be {kinds[key].__name__}")
  if len(fields.get("text", "")) > _MAX_TEXT:
    raise HTTPError(400, f"text too long; at most {_MAX_TEXT:,} characters")
  for key, lowest in (("top", 1), ("rerank", 0)):
    if not lowest <= fields.get(key, lowest) <= _MAX_TOP:
      raise HTTPError(400, f"{key}: must be {lowest} to {_MAX_TOP}")
  if "like" in fields:
    like = fields["like"]
    if [type(number) for number in like] != [int, int] or min(like) < 0:
      raise HTTPError(400, "like: must be [index, row]")
    fields["like"] = tuple(like)
  if "image" in fields:
    try:
      fields["image"] = base64.b64decode(fields["image"], validate=True)
    except ValueError:
      raise HTTPError(400, "image: not base64") from None
  others = fields.get("image") or fields.get("like")
  if blank(fields.get("text", "")) and not others:
    raise HTTPError(400, "empty query; give text, an image or a clip")
  clip = fields.pop("clip", "")
  parameters: dict[str, Any] = dict(top=TOP) | fields
  try:
    return Search(Query(**parameters), clip)
  except ConfigError as e:
    raise HTTPError(400, str(e)) from e


def check_text(text: str) -> None:
  """Raises HTTPError if it cannot be a query."""
  if blank(text):
    raise HTTPError(400, "empty query; give text")
  if len(text) > _MAX_TEXT:
    raise HTTPError(400, f"text too long; at most {_MAX_TEXT:,} characters")


def hit_json(hit: Any) -> dict[str, Any]:
  """A hit for the page: without its path on this machine."""
  return dict(
    score=float(hit.score),
    name=hit.name,
    start=float(hit.start),
    end=float(hit.end),
    index=int(hit.index),
    row=int(hit.row),
    clip=key_of(hit),
  )


def key_of(hit: Any) -> str:
  """Identifies a clip independently of its row."""
  text = f"{hit.name}\0{hit.start:.3f}\0{hit.end:.3f}"
  return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=6).hexdigest()
