"""Options of the encoding, and the checks of an item's annotations."""

import dataclasses
import hashlib
from typing import NamedTuple

from vtr_jax.core.config import require
from vtr_jax.data.captions import blank
from vtr_jax.prepare.formats.base import Item


class Result(NamedTuple):
  """The result of one item.

  data: the encoded video or image; empty if refused. refused: the reason, or empty.
  warnings: defects that are tolerated. frames, seconds, width, height: of `data`, as
  displayed.
  """

  data: bytes = b""
  refused: str = ""
  warnings: tuple[str, ...] = ()
  frames: int = 0
  seconds: float = 0.0
  width: int = 0
  height: int = 0


@dataclasses.dataclass(frozen=True)
class Options:
  """How items are checked and encoded.

  copy: keep the bytes as they are, after the same checks. short_side: pixels;
  smaller frames are not enlarged. fps: frames per second; 0 keeps every frame
  at its time. gop: frames from one key frame to the next at most; 1 makes every
  frame a key frame. crf: x264's quality, 0 to 51, lower is better. needed: a
  damaged file with this many good frames is cut short instead of refused; 0
  refuses all damaged files. max_pixels, max_seconds, max_mb: larger items are
  refused. allow_no_captions: keep items that have neither caption, label nor note.
  """

  copy: bool = False
  short_side: int = 256  # ours: the crops of 224 of all three papers, and some slack
  fps: float = 0.0
  gop: int = 16  # ours: see docs/prepare.md for what it costs and saves
  crf: int = 20  # ours; x264's own 23 is seen as blocks at this size
  needed: int = 0  # ours: damage is reported
  max_pixels: int = 8192 * 4320  # ours: 8K
  max_seconds: float = 3600.0  # ours: longer videos should be cut
  max_mb: int = 2048  # ours: a file is held in memory, once per worker
  allow_no_captions: bool = False

  def __post_init__(self):
    require(self.short_side >= 16, f"short_side: {self.short_side}; must be 16 or more")
    require(0 <= self.fps <= 240, f"fps: {self.fps}; must be 0 to 240")
    require(self.gop >= 1, f"gop: {self.gop}; must be 1 or more")
    require(0 <= self.crf <= 51, f"crf: {self.crf}; must be 0 to 51")
    require(self.needed >= 0, f"needed: {self.needed}; must be 0 or more")
    for name in ("max_pixels", "max_seconds", "max_mb"):
      value = getattr(self, name)
      require(value > 0, f"{name}: {value}; must be positive")


def captions(item: Item) -> tuple[str, ...]:
  """The captions that are not blank, which the record holds."""
  return tuple(text.strip() for text in item.captions if not blank(text))


def unfit(item: Item, options: Options) -> str:
  """Why an item is refused by its annotations alone; empty if it is not."""
  annotated = captions(item) or item.label or item.notes
  if not annotated and not options.allow_no_captions:
    return "no caption; --allow_no_captions keeps such items"
  cut = item.start is not None or item.end is not None
  if cut and options.copy:
    return "a part from start to end cannot be copied; omit --copy"
  if cut and (item.end or float("inf")) <= (item.start or 0):
    return f"the part ends at {item.end} s, not after its start at {item.start} s"
  return ""


def digest(item: Item, data: bytes) -> str:
  """64 hex digits of the content of a record: of an item with its `captions`."""
  texts = repr((item.id, item.label, item.captions)).encode()
  return hashlib.sha256(len(texts).to_bytes(8) + texts + data).hexdigest()
