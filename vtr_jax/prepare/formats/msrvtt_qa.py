"""MSRVTT-QA (Xu et al. 2017): questions about the videos of MSR-VTT, without captions.

Files as of `msvd_qa`, without a mapping: video 7010 is called video7010. 158,581,
12,278 and 72,821 questions; the 497 and 2,990 videos of MSR-VTT's own validation and
test.
"""

from collections.abc import Iterator

from vtr_jax.prepare.formats import msvd_qa
from vtr_jax.prepare.formats.base import Item, Request


def read(request: Request) -> Iterator[Item]:
  """One item a video, with all its questions."""

  def clip(where: str, video: str) -> tuple[str, ...]:
    del where
    return (f"video{video}" if video.isdecimal() else video,)

  yield from msvd_qa.items(request, clip)
