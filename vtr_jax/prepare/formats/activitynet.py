"""ActivityNet Captions (Krishna et al. 2017), paragraph to video.

train.json and val_1.json (or val_2.json, by variant) hold {"v_<file>": {duration,
timestamps, sentences}}; the sentences of a video are joined to one caption, and the
item is the full video. As in CLIP4Clip, val_1 is the test set: 10,009 and 4,917.

Each sentence is also a moment of the video, with its published times: 37,417 and
17,505. Four of train that end before they start are left out, as in 2D-TAN. Moments are
usually tested on val_2: 17,031 of 4,885 videos.
"""

from collections.abc import Iterator
from typing import Any

from vtr_jax.data.captions import blank
from vtr_jax.data.notes import Note
from vtr_jax.prepare.formats import media, parse
from vtr_jax.prepare.formats.base import Item, Request

VARIANTS = ("val_1", "val_2")


def read(request: Request) -> Iterator[Item]:
  """One item a video, with one paragraph."""
  files = media.Files(request.source)
  lists = dict(train="train.json", test=f"{request.variant}.json")
  for split, path in parse.by_split(request, lists):
    videos, left = parse.as_object(parse.load_json(path), path), []
    for name, video in videos.items():
      where = f"{path}: {name!r}"
      texts = parse.as_object(video, where, "sentences")["sentences"]
      paragraph = " ".join(parse.sentences(texts, where))
      file = files.find(name.removeprefix("v_"), where, name)
      length = video.get("duration")
      duration = 0.0 if length is None else number(length, where, "duration")
      found = tuple(moments(name, video, where, left, duration=duration))
      yield Item(name, split, file, parse.sentences(paragraph, where), notes=found)
    parse.warn_left_out(path, left)


def moments(
  name: str,
  video: dict[str, Any],
  where: str,
  left: list[str],
  fps: float = 1.0,
  duration: float = 0.0,
) -> Iterator[Note]:
  """A moment per sentence, if the file has the times; called video#number.

  Those that end before they start, or have no sentence, are left out.

  Args:
    name: of the video.
    video: sentences and timestamps, which are pairs.
    where: file and key of the video.
    left: takes the place of each that is left out.
    fps: units of the timestamps per second.
    duration: of the video in seconds; 0 is not known.
  """
  times = parse.as_list(video.get("timestamps", []), where, "timestamps")
  if not times:
    return
  texts = parse.as_list(video["sentences"], where, "sentences")
  same = len(times) == len(texts)
  parse.require(same, where, f"{len(texts)} timestamps, got {len(times)}")
  for i, (text, window) in enumerate(zip(texts, times, strict=True)):
    here = f"{where}: timestamps[{i}]"
    numbers = [t for t in parse.as_list(window, here) if isinstance(t, int | float)]
    backwards = len(numbers) == 2 and numbers[0] >= numbers[1]
    if not isinstance(text, str) or blank(text) or backwards:
      left.append(here)
    else:
      start, end = parse.segment(window, here)
      yield parse.note(
        *(here, "moment", f"{name}#{i}", text),
        windows=((start / fps, end / fps),),
        duration=duration,
      )


def number(value: Any, where: str, what: str) -> float:
  """A finite number above 0; raises DataError otherwise."""
  real = isinstance(value, int | float) and not isinstance(value, bool)
  parse.require(real and 0 < value < 1e9, where, f"a number for {what}, got {value!r}")
  return float(value)
