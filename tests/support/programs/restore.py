"""Sets up the run in each directory and prints the step it resumes from."""

import json
import sys

from vtr_jax.train import setup as experiment

for directory in sys.argv[2:]:
  run = experiment.build(json.loads(sys.argv[1]), directory)
  print("step", int(run.state.step), flush=True)
