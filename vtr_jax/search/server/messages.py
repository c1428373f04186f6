"""What the page sends and gets: JSON, checked key by key."""

import base64
import dataclasses
import hashlib
import json
from typing import Any

from vtr_jax.search.server.delivery import Refused

# All ours.
_MAX_TEXT = 20_000  # characters; models read some 60 words of them
_MAX_TOP = 500


@dataclasses.dataclass(frozen=True)
class Search:
  """The object that /api/search takes; other keys are refused.

  text, image (base64), like ([index, row] of a clip): what is looked for. clip: which
  clip `like` means, as told with it; "" trusts the row. folder: where; "" is
  everywhere. top: how many. rerank: how many of them the matching head puts in order.
  """

  text: str = ""
  image: bytes | None = None
  like: tuple[int, int] | None = None
  clip: str = ""
  top: int = 24
  rerank: int = 0
  folder: str = ""


def parsed(body: bytes) -> Search:
  """What a client sent, checked key by key; raises Refused."""
  try:
    asked = json.loads(body)
  except (ValueError, RecursionError):
    raise Refused(400, "not JSON") from None
  if not isinstance(asked, dict):
    raise Refused(400, "not a JSON object")
  kinds = dict(text=str, image=str, like=list, clip=str, folder=str)
  kinds |= dict(top=int, rerank=int)
  for key, value in asked.items():
    if key not in kinds:
      raise Refused(400, f"unknown key {key[:40]!a}")
    if type(value) is not kinds[key]:
      raise Refused(400, f"{key}: must be {kinds[key].__name__}")
  if len(asked.get("text", "")) > _MAX_TEXT:
    raise Refused(400, f"too many words; at most {_MAX_TEXT:,} characters")
  for key, least in (("top", 1), ("rerank", 0)):
    if not least <= asked.get(key, least) <= _MAX_TOP:
      raise Refused(400, f"{key}: must be {least} to {_MAX_TOP}")
  if "like" in asked:
    like = asked["like"]
    if [type(number) for number in like] != [int, int] or min(like) < 0:
      raise Refused(400, "like: must be [index, row]")
    asked["like"] = tuple(like)
  if "image" in asked:
    try:
      asked["image"] = base64.b64decode(asked["image"], validate=True)
    except ValueError:
      raise Refused(400, "image: not base64") from None
  search = Search(**asked)
  if not (search.text.strip() or search.image or search.like):
    raise Refused(400, "say what you look for")
  return search


def told(hit: Any) -> dict[str, Any]:
  """A hit as the page gets it: without its place on this machine."""
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
  """Which clip it is, whatever its row is in another index."""
  text = f"{hit.name}\0{hit.start:.3f}\0{hit.end:.3f}"
  return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=6).hexdigest()
