"""Trains; after step 3, decoding hangs."""

import json

from tests.support.endless import HangingSplit
from vtr_jax.core import cli
from vtr_jax.data import sources
from vtr_jax.train import loop, progress

opened, add, videos = sources.open_split, progress.Progress.add, {}


def add_then_hang(log, done, metrics):
  add(log, done, metrics)
  if done == 3:
    videos.update(dict.fromkeys(range(96), b"wait"))


sources.open_split = lambda *where: HangingSplit(opened(*where), videos)
progress.Progress.add = add_then_hang
train = lambda config, workdir: loop.train_and_evaluate(json.loads(config), workdir)
cli.run(train, arguments=True)
