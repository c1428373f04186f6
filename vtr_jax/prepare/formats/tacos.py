"""TACoS (Regneri et al. 2013), as in TALL: moments of long cooking videos.

{train,val,test}.json of {"<video>.avi": {timestamps, sentences, fps, num_frames}},
with times in frames: 9,790, 4,436 and 4,001 moments of 75, 27 and 25 videos.
"""

from collections.abc import Iterator

from vtr_jax.prepare.formats import activitynet, media, parse
from vtr_jax.prepare.formats.base import Item, Request

_FILES = dict(train="train.json", validation="val.json", test="test.json")


def read(request: Request) -> Iterator[Item]:
  """One item a video, called by its file without the ending, with all its moments."""
  files = media.Files(request.source)
  for split, path in parse.by_split(request, _FILES):
    left: list[str] = []
    for file, video in parse.as_object(parse.load_json(path), path).items():
      where = f"{path}: {file!r}"
      keys = ("timestamps", "sentences", "fps", "num_frames")
      video = parse.as_object(video, where, *keys)
      fps = activitynet.number(video["fps"], where, "fps")
      duration = activitynet.number(video["num_frames"], where, "num_frames") / fps
      name = media.stem(file)
      notes = tuple(activitynet.moments(name, video, where, left, fps, duration))
      yield Item(name, split, files.find(file, where), (), notes=notes)
    parse.warn_left_out(path, left)
