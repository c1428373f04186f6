"""A plain csv with a header: path,caption[,start,end,split].

Fields may be quoted, and hold commas and line ends. start and end are in seconds;
both empty is the full file. Rows of the same part are one item with their captions.
"""

from collections.abc import Iterator

from vtr_jax.prepare.formats import media, parse
from vtr_jax.prepare.formats.base import Item, Request


def read(request: Request) -> Iterator[Item]:
  """One item a part, called <path> or, as first written, <path>#<start>-<end>."""
  files = media.Files(request.source, media.VIDEO + media.IMAGE)
  for split, path in parse.listed(request, "*.csv"):
    items = {}
    for where, row in parse.table(path, ("path", "caption")):
      parse.filled(row, ("path",), where)
      part = parse.split_named(row.get("split", "").strip() or split)
      times = (row.get("start", "").strip(), row.get("end", "").strip())
      start, end = parse.segment(times, where) if any(times) else (None, None)
      key = (row["path"], start, end, part)  # 0 and 0.0 are one time
      if key not in items:
        name = row["path"] if start is None else f"{row['path']}#{times[0]}-{times[1]}"
        file = files.find(row["path"], where)
        items[key] = Item(name, part, file, (), "", start, end)
      captions = items[key].captions + parse.sentences(row["caption"], where)
      items[key] = items[key]._replace(captions=captions)
    yield from items.values()
