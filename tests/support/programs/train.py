"""Trains: a config as JSON, a directory and, if given, a CheckpointPolicy as JSON."""

import json
import sys

from vtr_jax.core import cli
from vtr_jax.train import train_and_evaluate
from vtr_jax.train.checkpoint import CheckpointPolicy

config, workdir, *policy = sys.argv[1:]
policy = CheckpointPolicy(**json.loads(policy[0] if policy else "{}"))
cli.run(lambda: train_and_evaluate(json.loads(config), workdir, policy=policy))
