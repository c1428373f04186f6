"""Results that outlive a killed run: one file each, whole or not there.

A worker writes its result itself. Were results sent through a pipe, a worker that is
killed in the midst of it would leave half a message to all others.
"""

import json
import os
import pathlib
import struct
import zlib

from vtr_jax.prepare.options import Result

_HEAD = struct.Struct("<8sIQI")  # magic, bytes of JSON, bytes of data, CRC of both
_MAGIC = b"vtrspool"


def write(path: pathlib.Path, result: Result) -> None:
  """Writes under another name and renames last."""
  facts = json.dumps(result._replace(data=b"")._asdict(), default=lambda _: "").encode()
  crc = zlib.crc32(result.data, zlib.crc32(facts))
  part = path.with_suffix(f".{os.getpid()}.tmp")
  with part.open("wb") as f:
    f.write(_HEAD.pack(_MAGIC, len(facts), len(result.data), crc))
    f.write(facts)
    f.write(result.data)
  part.rename(path)


def read(path: pathlib.Path) -> Result | None:
  """The result, or None if it is missing or was damaged by a crash of the system."""
  try:
    with path.open("rb") as f:
      magic, num_facts, num_data, crc = _HEAD.unpack(f.read(_HEAD.size))
      whole = _HEAD.size + num_facts + num_data == os.fstat(f.fileno()).st_size
      if magic != _MAGIC or not whole:
        return None
      facts, data = f.read(num_facts), f.read(num_data)
  except (FileNotFoundError, struct.error):
    return None
  if zlib.crc32(data, zlib.crc32(facts)) != crc:
    return None
  values = json.loads(facts)
  values |= dict(data=data, warnings=tuple(values["warnings"]))
  return Result(**values)
