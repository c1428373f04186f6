"""Records whose decoding hangs."""

import time


class HangingVideo(bytes):
  """A video whose decoding hangs: `b"wait"` sleeps, `b"spin"` keeps the CPU busy."""

  def __bool__(self):
    while True:
      time.sleep(60 if self.startswith(b"wait") else 0)


class HangingSplit:
  """A split in which `videos` (index -> b"wait" | b"spin") replace some videos."""

  def __init__(self, split, videos):
    self._split, self._videos = split, videos
    self.directory = split.directory

  def __len__(self):
    return len(self._split)

  def __getitem__(self, index):
    video = self._videos.get(index)
    return self._split[index] | (dict(video=HangingVideo(video)) if video else {})
