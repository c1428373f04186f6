"""Kinetics-400, -600 and -700 (Kay et al. 2017): csv files of the publisher.

Columns label (not in test), youtube_id, time_start, time_end and maybe split. Clips
are called <youtube_id>_<start>_<end> with six digits each; where only the full video
<youtube_id> exists, the clip is cut from it. Lists of "path number" are format
videomae.
"""

from collections.abc import Iterator

from vtr_jax.prepare.formats import media, parse
from vtr_jax.prepare.formats.base import Item, Request

_COLUMNS = ("youtube_id", "time_start", "time_end")


def read(request: Request) -> Iterator[Item]:
  """One item a clip, with its label and no caption."""
  files = media.Files(request.source)
  for split, path in parse.listed(request, "*.csv"):
    for where, row in parse.table(path, _COLUMNS):
      parse.filled(row, _COLUMNS, where)
      start, end = parse.segment((row["time_start"], row["time_end"]), where)
      name = f"{row['youtube_id']}_{int(start):06d}_{int(end):06d}"
      label = row.get("label", "").strip()
      part = parse.split_named(row.get("split") or split)
      clip, times = files.find(name, where), (None, None)
      if not media.exists(clip):
        video = files.find(row["youtube_id"], where)
        if media.exists(video):
          clip, times = video, (start, end)
      yield Item(name, part, clip, (), label, times[0], times[1])
