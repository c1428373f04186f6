"""Several clips of one video, for evaluation: windows along time, crops in space."""

import dataclasses
import threading
from collections.abc import Callable

import grain
import numpy as np
from jaxtyping import Int, UInt8

from vtr_jax.core.batch import ClipSpec
from vtr_jax.core.errors import BadSample
from vtr_jax.data import sources, workers
from vtr_jax.data.crops import View, resize_view
from vtr_jax.data.examples import DataConfig
from vtr_jax.data.video import decode


@dataclasses.dataclass(frozen=True)
class Views:
  """The clips of each video; windows first, then the crops of each."""

  frames: int  # of a clip
  sampling: str  # see video.frame_indices
  stride: int  # frames between two of a clip; read by "contiguous"
  windows: int = 1
  crops: int = 1

  def __len__(self) -> int:
    return self.windows * self.crops

  def indices(self, view: int) -> Callable[[int], Int[np.ndarray, " t"]]:
    """From the number of frames of a video to those of clip number `view`.

    "segments": window k of K takes the k-th of K frames spread over each segment, by
    time only if there is one.
    "contiguous": starts are spread evenly from the first frame to the last that
    leaves a full window (VideoMAE). One window is the middle one in both.
    """
    window, n = view // self.crops, self.frames
    if self.windows == 1 and self.sampling == "time_segments":
      return decode.TimeSegments(n)

    def chosen(count: int) -> np.ndarray:
      if self.sampling != "contiguous":
        fine = decode.frame_indices(count, n * self.windows, "segments", 1, None)
        return fine[window :: self.windows]
      if self.windows == 1:
        return decode.frame_indices(count, n, self.sampling, self.stride, None)
      free = max(-(-count // self.stride) - n, 0)  # in strides, as VideoMAE's
      start = int(window * free / (self.windows - 1))
      return np.minimum((start + np.arange(n)) * self.stride, count - 1)

    return chosen

  def cut(self, view: int, size: int) -> Callable[[int, int], View]:
    """From height and width of a video to the part that clip number `view` shows."""
    position = view % self.crops

    def chosen(height: int, width: int) -> View:
      middle = resize_view(height, width, size)
      if self.crops == 1:
        return middle
      share = position / (self.crops - 1)
      top = round((middle.height - size) * share)
      return middle._replace(top=top, left=round((middle.width - size) * share))

    return chosen


class ViewExample:
  """Number of a clip, videos in order and their views within, to a row."""

  def __init__(
    self, source: sources.Split, data: DataConfig, clip: ClipSpec, views: Views
  ):
    self._source, self._data, self._clip, self._views = source, data, clip, views
    self._last = threading.local()  # a thread makes neighbouring rows, one by one

  def __call__(self, index: int) -> dict:
    """The row.

    Raises:
      DataError: the record cannot be used; evaluation replaces none.
    """
    window, crop = divmod(index, self._views.crops)
    if getattr(self._last, "window", None) != window:
      self._last.crops = self._crops(*divmod(index, len(self._views)))
      self._last.window = window
    record = np.int64(index // len(self._views))
    return dict(video=self._last.crops[crop], valid=np.True_, record=record)

  def _crops(self, record: int, view: int) -> list[UInt8[np.ndarray, "t h w 3"]]:
    """See `crops`, of a record."""
    try:
      video = self._source[record]["video"]
      return crops(video, view, self._views, self._data, self._clip.image_size)
    except BadSample as e:
      raise sources.unusable(self._source, record, e) from e


def crops(
  video: bytes,
  view: int,
  views: Views,
  data: DataConfig,
  size: int,
  damage: list[str] | None = None,
) -> list[UInt8[np.ndarray, "t h w 3"]]:
  """All crops of the window of clip number `view`, decoded once.

  Args:
    video: the encoded file.
    view: the first of its window, or another one.
    views: of the video.
    data: how long decoding may take.
    size: height and width of a crop.
    damage: see `decode.decode`.

  Raises:
    BadSample: see `decode.decode`.
  """
  cuts = []

  def full(height: int, width: int) -> View:
    cuts[:] = [views.cut(crop, size)(height, width) for crop in range(views.crops)]
    # They differ in their positions only. This one ends where the frame does.
    return cuts[0]._replace(top=0, left=0, size=max(cuts[0].height, cuts[0].width))

  limits = views.frames, data.decode_timeout, damage
  frames = decode.decode(video, views.indices(view), full, *limits)
  return [
    frames[:, cut.top : cut.top + cut.size, cut.left : cut.left + cut.size]
    for cut in cuts
  ]


def batches(
  source: sources.Split,
  data: DataConfig,
  clip: ClipSpec,
  views: Views,
  batch_size: int,
  *,
  host: int = 0,
  num_hosts: int = 1,
) -> workers.Batches:
  """This host's rows of every view of every video, in order; else as `eval_videos`."""
  example = ViewExample(source, data, clip, views)
  rows = grain.MapDataset.range(len(source) * len(views)).map(example)
  shared = workers.HostBatches(rows, batch_size, host, num_hosts)
  return workers.Batches(shared, workers=0)
