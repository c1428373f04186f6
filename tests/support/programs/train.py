"""Trains: a config as JSON, a directory and, if given, a CheckpointPolicy as JSON."""

import json

from vtr_jax.core import cli
from vtr_jax.train import train_and_evaluate
from vtr_jax.train.checkpoint import CheckpointPolicy


def train(config, workdir, policy="{}"):
  policy = CheckpointPolicy(**json.loads(policy))
  train_and_evaluate(json.loads(config), workdir, policy=policy)


cli.run(train, arguments=True)
