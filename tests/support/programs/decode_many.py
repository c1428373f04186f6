"""Decodes thousands of good and damaged files; prints the resident memory."""

import io
import os
import pathlib

import av
import clips
import damage
import movies
import numpy as np

from vtr_jax.core.errors import BadSample
from vtr_jax.data import crops
from vtr_jax.data.video import decode as video
from vtr_jax.data.video import stream

# Each file would print megabytes of warnings.
av.logging.set_level(av.logging.PANIC)
spread = lambda n: video.frame_indices(n, 8, "segments", 1, None)
view = lambda h, w: crops.resize_view(h, w, 32)
files = [movies.movie(kind) for kind in movies.KINDS]
files += [*damage.damaged().values(), *damage.damaged(0.8).values(), clips.mp4()]
page, bad = os.sysconf("SC_PAGE_SIZE"), 0
for i in range(4000):
  data = files[i % len(files)]
  try:
    if i % 4:
      video.decode(data, spread, view, needed=8)
    else:
      file = io.BytesIO(data)
      line = stream.timeline(file)
      list(stream.clips(file, line, [np.array([0, 3]), np.array([5])], view))
  except BadSample:
    bad += 1
  if i % 20 == 19:
    print(i, int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * page)
print("bad", bad)
