"""Trains and evaluates: python -m vtr_jax.main --config=configs/simvtp.py[:variant].

Overrides: --config.optim.lr=1e-4. Exit codes stand in errors.py. Several processes (on
Slurm and TPU pods they find each other) share a run, each started with
  --coordinator=HOST:PORT --num_processes=N --process_id=I
"""

from absl import flags

from vtr_jax.core import cli


def main(config: dict, workdir: str) -> None:
  from vtr_jax.train.checkpoint import Care  # starts JAX: after the flags
  from vtr_jax.train.loop import train_and_evaluate
  from vtr_jax.train.profiler import Observe

  care = Care(STRICT.value, VERIFY.value, CHANGE.value)
  train_and_evaluate(config, workdir, Observe(PROFILE.value, WANDB.value), care)


PROFILE = flags.DEFINE_string(
  "profile", "", "FIRST:LAST steps to trace into workdir/profile, such as 10:12."
)
WANDB = flags.DEFINE_string(
  "wandb", "", "Project at Weights & Biases that numbers go to as well."
)
STRICT = flags.DEFINE_bool(
  "strict_restore", False, "End where the newest checkpoint is damaged."
)
VERIFY = flags.DEFINE_bool(
  "verify_saves", False, "Read each checkpoint again before training goes on."
)
CHANGE = flags.DEFINE_bool(
  "allow_data_change", False, "Go on with other records than the checkpoint saw."
)

if __name__ == "__main__":
  cli.start(main, None, "the demo is --config=configs/simvtp.py", peers=True)
