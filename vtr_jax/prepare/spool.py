"""Results that outlive a killed run: one file each, complete or absent.

A worker writes its result itself: if results were sent through a pipe, a worker killed
while writing would corrupt the messages of all others.
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
  """Writes under another name and renames last.

  Not `io.atomic_write`: two fsyncs an item are slow, and `read` detects, by its CRC, a
  file that a crash of the system has damaged; the item is then done again.
  """
  facts = json.dumps(result._replace(data=b"")._asdict(), default=lambda _: "").encode()
  crc = zlib.crc32(result.data, zlib.crc32(facts))
  part = path.with_suffix(f".{os.getpid()}.tmp")
  with part.open("wb") as f:
    f.write(_HEAD.pack(_MAGIC, len(facts), len(result.data), crc))
    f.write(facts)
    f.write(result.data)
  part.rename(path)


def read(path: pathlib.Path) -> Result | None:
  """The result, or None if it is missing or damaged by a crash of the system."""
  try:
    with path.open("rb") as f:
      magic, num_facts, num_data, crc = _HEAD.unpack(f.read(_HEAD.size))
      complete = _HEAD.size + num_facts + num_data == os.fstat(f.fileno()).st_size
      if magic != _MAGIC or not complete:
        return None
      facts, data = f.read(num_facts), f.read(num_data)
  except (FileNotFoundError, struct.error):
    return None
  if zlib.crc32(data, zlib.crc32(facts)) != crc:
    return None
  values = json.loads(facts)
  values |= dict(data=data, warnings=tuple(values["warnings"]))
  return Result(**values)
