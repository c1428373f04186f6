"""Trains and evaluates: python -m vtr_jax.main --config=configs/simvtp.py[:variant].

Overrides: --config.optim.lr=1e-4. Exit codes stand in errors.py. Several processes (on
Slurm and TPU pods they find each other) share a run, each started with
  --coordinator=HOST:PORT --num_processes=N --process_id=I
"""

from absl import flags

from vtr_jax import command


def main(config: dict, workdir: str) -> None:
  from vtr_jax.observe import Observe  # starts JAX: after the flags
  from vtr_jax.train import train_and_evaluate

  train_and_evaluate(config, workdir, Observe(PROFILE.value, WANDB.value))


PROFILE = flags.DEFINE_string(
  "profile", "", "FIRST:LAST steps to trace into workdir/profile, such as 10:12."
)
WANDB = flags.DEFINE_string(
  "wandb", "", "Project at Weights & Biases that numbers go to as well."
)

if __name__ == "__main__":
  command.start(main, None, "the demo is --config=configs/simvtp.py", peers=True)
