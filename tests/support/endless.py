"""Records whose videos are never decoded."""

import time


class Endless(bytes):
  """A video that is never decoded; it waits, or keeps the processor busy."""

  def __bool__(self):
    while True:
      time.sleep(60 if self.startswith(b"wait") else 0)


class Stuck:
  """A split with such records."""

  def __init__(self, split, videos):
    self._split, self._videos = split, videos
    self.directory = split.directory

  def __len__(self):
    return len(self._split)

  def __getitem__(self, index):
    video = self._videos.get(index)
    return self._split[index] | (dict(video=Endless(video)) if video else {})
