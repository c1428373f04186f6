"""Prints the shapes of kernels and optimiser states, and of their shards."""

import json
import sys

from vtr_jax.train import setup as experiment

run = experiment.build(json.loads(sys.argv[1]), sys.argv[2])
block = run.state.params["encoder"]["block_0"]
for name, array in dict(
  up=block["mlp"]["up"]["kernel"],
  down=block["mlp"]["down"]["kernel"],
  query=block["attention"]["query"]["kernel"],
  out=block["attention"]["out"]["kernel"],
  words=run.state.params["text_embed"]["words"],
  adam=run.state.opt_state[2].inner_state.mu["text_embed"]["words"],
  muon=run.state.opt_state[3].inner_state["encoder"]["block_0"]["mlp"]["up"]["kernel"],
  bias=block["mlp"]["down"]["bias"],
).items():
  parts = {s.data.shape for s in array.addressable_shards}
  print(name, array.shape, *parts)
