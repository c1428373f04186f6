"""Trains; asserts that the EMA is sharded like the parameters."""

import json
import sys

import jax

from vtr_jax.train import setup as experiment
from vtr_jax.train import train_and_evaluate

c = json.loads(sys.argv[1])
train_and_evaluate(c, sys.argv[2])
state = experiment.build(c, sys.argv[2]).state
shardings = lambda tree: [str(x.sharding.spec) for x in jax.tree.leaves(tree)]
assert shardings(state.ema_params) == shardings(state.params)
print(sum("fsdp" in spec for spec in shardings(state.ema_params)))
