"""Mutations of JSON, text and bytes, drawn by a `Random`."""

import copy
import json
import re

NESTED = b"[" * 99_999
DAMAGED = (  # every file is also replaced by these
  *(b"", b"3", b"3\n", b"\xff", b"\xff\n", b"{}\n"),
  *(b'{"optim": true}', b'{"record": []}'),
  *(NESTED, b"9" * 5000, b"[" + b"9" * 5000 + b"]"),
)
ODD_TEXTS = (
  *("", " ", "\0", "\ud800", "a\nb", "\r\n", "\u2028", "\ufeff", "\x1b[2J", "\x1c"),
  *("../x", "/etc/passwd", "a/../../b", ".", "..", "NaN", "1e999", "-1", "0x10"),
  *("9" * 5000, "x" * 300, "e\u0301", "\u0661\u0662", "\u00b2", "True"),
  *("%s{0}", "<mask>"),
)
ODD_NUMBERS = (
  *(0, -1, 1, 3, 2**31, 2**63, 2**64, 10**400, -(10**400), 0.5, -0.0, 1e308),
  *(float("nan"), float("inf"), -float("inf")),
)
# Inserted into a file's bytes.
_PIECES = (
  *(text.encode(errors="surrogatepass") for text in ODD_TEXTS),
  *(b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0" * 64, b"\xef\xbb\xbf"),
  *(b'"', b",", b"\t", b"\n", b"\r", b"{}", b"[]", b"null", b"\\ud800", b"\\", b":"),
  *(b"\x1f\x8b", b"PK\x03\x04", b"\x80\x02", b"[" * 9999, b'{"a":' * 9999),
)
_DEEP = "deep within"  # stands for deeply nested JSON
_LONG = "long"  # stands for a number of many digits
_BYTE_EDITS = (
  *("flip", "flip", "cut", "drop", "insert", "insert", "double", "zero", "over"),
  *("move", "field", "field", "field"),
)
_FIELD = re.compile(rb"[^\s,\"']+")
_VALUE_EDITS = ("put", "put", "put", "put", "drop", "double", "move")


class Lines(list):
  """Values of a file of JSON lines."""


def mutate(content, rng):
  """The bytes of a file of `content`: bytes, text or JSON, with mutations."""
  if isinstance(content, str | bytes):
    return edited_bytes(written(content), rng, rng.randint(1, 4))
  data = dumped(edited(content, rng, rng.randint(1, 3)))
  return data if rng.random() < 0.8 else edited_bytes(data, rng, 1)


def written(content):
  """The bytes of a file of `content`: bytes, text or JSON."""
  if isinstance(content, bytes):
    return content
  return content.encode() if isinstance(content, str) else dumped(content)


def dumped(value):
  """The bytes of a JSON file, or of JSON `Lines`."""
  whole = map(json.dumps, value if type(value) is Lines else [value])
  deep = "[" * 99_999 + "]" * 99_999
  lines = "\n".join(whole).replace(f'"{_DEEP}"', deep)
  return lines.replace(f'"{_LONG}"', "9" * 5000).encode()


def text(rng):
  """Any text, also with lone surrogates."""
  if rng.random() < 0.7:
    return rng.choice(ODD_TEXTS)
  ends = rng.choice((0x80, 0x3000, 0x110000))
  return "".join(chr(rng.randrange(ends)) for _ in range(rng.randrange(8)))


def value(rng, depth=2):
  """Any JSON."""
  kind = rng.randrange(8 if depth else 5)
  if kind < 2:
    return text(rng)
  if kind < 4:
    return rng.choice(ODD_NUMBERS)
  if kind == 4:
    return rng.choice((None, True, False, [], {}, _DEEP, _LONG))
  inside = [value(rng, depth - 1) for _ in range(rng.randrange(4))]
  return inside if kind < 6 else {text(rng): x for x in inside}


def edited_bytes(data, rng, count):
  """`data` after `count` edits."""
  data = bytearray(data)
  for _ in range(count):
    kind = rng.choice(_BYTE_EDITS)
    at = rng.randrange(len(data) + 1)
    part = slice(at, at + rng.choice((1, 1, 4, 20, 400)))
    piece = rng.choice(_PIECES) if rng.random() < 0.6 else rng.randbytes(4)
    if kind == "flip" and data:
      data[at - 1] ^= 1 << rng.randrange(8)
    elif kind == "cut":
      del data[at:]
    elif kind == "drop":
      del data[part]
    elif kind == "insert":
      data[at:at] = piece
    elif kind == "double":
      data[at:at] = data[part]
    elif kind == "zero":
      data[part] = bytes(len(data[part]))
    elif kind == "over":
      data[at : at + len(piece)] = piece
    elif kind == "field" and (found := _FIELD.search(data, at // 2)):
      data[slice(*found.span())] = piece
    elif kind == "move":
      data += data[part]
      del data[part]
  return bytes(data)


def edited(whole, rng, count):
  """A JSON value after `count` edits."""
  whole = copy.deepcopy(whole)
  for _ in range(count):
    places = list(_paths(whole))
    place, kind = rng.choice(places), rng.choice(_VALUE_EDITS)
    if not place:
      if kind == "put" and not isinstance(whole, Lines) and rng.random() < 0.3:
        whole = value(rng)
      continue
    *way, key = place
    parent = _at(whole, way)
    if kind == "put":
      parent[key] = value(rng)
    elif kind == "drop":
      del parent[key]
    elif kind == "move":
      other = copy.deepcopy(_at(whole, rng.choice(places)))
      parent[key] = list(other) if isinstance(other, Lines) else other
    elif isinstance(parent, list):
      parent.insert(key, copy.deepcopy(parent[key]))
    else:
      parent[text(rng)] = parent.pop(key)
  return whole


def _paths(value, way=()):
  yield way
  inside = value.items() if isinstance(value, dict) else ()
  inside = enumerate(value) if isinstance(value, list) else inside
  for key, x in inside:
    yield from _paths(x, (*way, key))


def _at(value, way):
  for key in way:
    value = value[key]
  return value
