"""Trains; prints the resident memory of the run and of its loader's process."""

import json
import multiprocessing
import os
import sys

from vtr_jax.train import loop as train
from vtr_jax.train import progress

page, add = os.sysconf("SC_PAGE_SIZE"), progress.Progress.add


def rss(pid):
  return int(open(f"/proc/{pid}/statm").read().split()[1]) * page


def add_and_print(log, done, numbers):
  add(log, done, numbers)
  if done % 10 == 0:
    (worker,) = multiprocessing.active_children()
    print("rss", done, rss("self"), rss(worker.pid), flush=True)


progress.Progress.add = add_and_print
train.train_and_evaluate(json.loads(sys.argv[1]), sys.argv[2])
