"""Trains and evaluates: python -m vtr_jax.main --config=configs/simvtp.py[:variant].

Overrides: --config.optim.lr=1e-4. Exit codes stand in errors.py. Several processes (on
Slurm and TPU pods they find each other) share a run, each started with
  --coordinator=HOST:PORT --num_processes=N --process_id=I
"""

from vtr_jax import command


def main(config: dict, workdir: str) -> None:
  from vtr_jax.train import train_and_evaluate  # starts JAX: after the flags

  train_and_evaluate(config, workdir)


if __name__ == "__main__":
  command.start(main, None, "the demo is --config=configs/simvtp.py", peers=True)
