"""Annotation files written and read back."""

import io
import json
import tarfile

from vtr_jax.prepare.formats import base
from vtr_jax.prepare.formats.base import Request


def put(folder, files):
  """Writes {name: text, bytes or a JSON value} under `folder`."""
  for name, content in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, str | bytes):
      content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
  return str(folder)


def read(name, source, annotations="", **kwargs):
  """Items as (id, split, file below the source, captions, label, start, end)."""
  items = base.open(name, Request(str(source), str(annotations), **kwargs))
  prefix = f"{source}/"
  assert all(i.media.path.startswith(prefix) for i in items)
  return [(i.id, i.split, i.media.path.removeprefix(prefix), *i[3:7]) for i in items]


WEBVID = "videoid,contentUrl,duration,page_dir,name\n"


def tar(path, members):
  """A tar of (name, content) or (name, content, type)."""
  with tarfile.open(path, "w") as out:
    for name, content, *kind in members:
      info = tarfile.TarInfo(name)
      info.size, info.linkname = len(content), "/etc/passwd"
      info.type = kind[0] if kind else tarfile.REGTYPE
      out.addfile(info, io.BytesIO(content))
  return str(path)
