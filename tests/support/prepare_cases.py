"""Small sources, and data sets prepared from them."""

import csv
import dataclasses
import hashlib
import multiprocessing
import os
import signal
import time

import clips

from vtr_jax.prepare import merge, run
from vtr_jax.prepare.formats import base
from vtr_jax.prepare.options import Options
from vtr_jax.prepare.place import Place

TRAIN = 14


TEST = 4


class Hanging(base.Media):
  """Hangs the worker process that asks where it is."""

  @property
  def path(self):
    if multiprocessing.parent_process() is not None:
      self.harm()
    return self[0]

  def harm(self):
    time.sleep(3600)


class Killing(Hanging):
  """Kills the worker process."""

  def harm(self):
    os.kill(os.getpid(), signal.SIGKILL)


def write_source(folder, bad=()):
  """Tiny videos and a csv; `bad` are (name, content or None for a missing file)."""
  folder.mkdir()
  rows = []
  videos = [clips.mp4(frames=6, height=32, width=48, seed=i) for i in range(4)]
  for i in range(TRAIN + TEST):
    name = f"v{i:02d}.mp4"
    (folder / name).write_bytes(videos[i % 4])
    split = "train" if i < TRAIN else "test"
    rows.append((name, f"a {'red' if i % 2 else 'blue'} ball moves {i}", split))
  for name, data in bad:
    rows.append((name, "a bad thing", "train"))
    if data is not None:
      (folder / name).write_bytes(data)
  with (folder / "all.csv").open("w", newline="") as f:
    csv.writer(f).writerows([("path", "caption", "split"), *rows])
  return folder


def make(source, out, options=None, final=None, items=None, **how):
  """Prepares `source` in this process, in shards of 4; returns the directory."""
  request = base.Request(str(source))
  items = items or base.open("csv", request)
  place = Place(str(out), "mine")
  run.prepare(
    place,
    items,
    dict(format="csv") | dataclasses.asdict(request),
    options or Options(short_side=32),
    run.Run(**dict(workers=1) | how),
    final or merge.Final(),
    shard_size=4,
    seed=0,
  )
  return place.directory


def content(directory):
  """Name and hash of every file."""
  return {
    p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in directory.iterdir()
  }


def arguments(source, out):
  return (
    "--format=csv",
    f"--source={source}",
    f"--out={out}",
    "--name=mine",
    "--short_side=32",
    "--shard_size=4",
    "--workers=2",
  )
