"""Trains and evaluates: python -m vtr_jax.main --config=simvtp[:variant].

--config is a file, as configs/simvtp.py:webvid2m, or the name of one of this package's.
Overrides: --config.optim.lr=1e-4. Exit codes: core/errors.py. To share a run among
several processes (automatic on Slurm and TPU pods), start each with
  --coordinator=HOST:PORT --num_processes=N --process_id=I
"""

from absl import flags

from vtr_jax.core import cli


def main(config: dict, workdir: str) -> None:
  from vtr_jax.train.checkpoint import CheckpointPolicy  # starts JAX: after the flags
  from vtr_jax.train.loop import train_and_evaluate
  from vtr_jax.train.profiler import MonitorOptions

  monitor = MonitorOptions(PROFILE.value, WANDB.value)
  policy = CheckpointPolicy(STRICT.value, VERIFY.value, CHANGE.value)
  train_and_evaluate(config, workdir, monitor, policy)


def _comments(config: dict) -> dict[str, str]:
  from vtr_jax.train.config import comments  # starts JAX: after the flags

  return comments(config)


PROFILE = flags.DEFINE_string(
  "profile", "", "FIRST:LAST steps to profile into workdir/profile, such as 10:12."
)
WANDB = flags.DEFINE_string("wandb", "", "Weights & Biases project to log metrics to.")
STRICT = flags.DEFINE_bool(
  "strict_restore", False, "Fail if the newest checkpoint is damaged."
)
VERIFY = flags.DEFINE_bool(
  "verify_saves", False, "Read each checkpoint back before training continues."
)
CHANGE = flags.DEFINE_bool(
  "allow_data_change", False, "Resume although the records have changed."
)

if __name__ == "__main__":
  hint = "the demo is --config=simvtp"
  cli.start(main, None, hint, peers=True, comments=_comments)
