"""Trains; checks that the EMA is sharded as the parameters are."""

import json
import sys

import jax

from vtr_jax.train import setup as experiment
from vtr_jax.train import train_and_evaluate

c = json.loads(sys.argv[1])
train_and_evaluate(c, sys.argv[2])
state = experiment.build(c, sys.argv[2]).state
place = lambda tree: [str(x.sharding.spec) for x in jax.tree.leaves(tree)]
assert place(state.ema_params) == place(state.params)
print(sum("fsdp" in spec for spec in place(state.ema_params)))
