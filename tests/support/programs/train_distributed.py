"""Trains as one process of several."""

import json

from vtr_jax.core import cli as command
from vtr_jax.core import distributed
from vtr_jax.train import train_and_evaluate


def work(config, workdir):
  distributed.start(distributed.find(heartbeat=10, timeout=90.0))
  train_and_evaluate(json.loads(config), workdir)


command.run(work, arguments=True)
