"""Records whose decoding hangs."""

import time

from vtr_jax.data.sources import Split


class HangingVideo(bytes):
  """A video whose decoding hangs: `b"wait"` sleeps, `b"spin"` keeps the CPU busy."""

  def __bool__(self):
    while True:
      time.sleep(60 if self.startswith(b"wait") else 0)


class HangingSplit(Split):
  """A split in which `videos` (index -> b"wait" | b"spin") replace some videos."""

  def __init__(self, split, videos):
    super().__init__(split.directory, split.name, split._records)
    self._videos = videos

  def __getitem__(self, index):
    record = super().__getitem__(index)
    if index in self._videos:
      record |= dict(video=HangingVideo(self._videos[index]))
    return record
