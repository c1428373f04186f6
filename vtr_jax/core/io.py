"""JSON that others may have written: whatever is wrong with it is one kind of error."""

import json
from typing import Any


def loads(data: str | bytes) -> Any:
  """The value of a JSON text.

  Raises:
    ValueError: it is none, not UTF-8, nested too deeply, or has a number too long.
  """
  try:
    return json.loads(data)
  except RecursionError:
    raise ValueError("nested too deeply") from None


def mapping(data: str | bytes) -> dict[str, Any]:
  """The same of a text that is an object; raises ValueError too."""
  value = loads(data)
  if not isinstance(value, dict):
    raise ValueError("no JSON object")
  return value
