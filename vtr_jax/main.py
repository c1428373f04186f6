"""Trains and evaluates: python -m vtr_jax.main --config=configs/simvtp.py[:variant].

Overrides: --config.optim.lr=1e-4. Exit codes stand in errors.py.
"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from vtr_jax.errors import ConfigError, DataError, VtrError

_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_WORKDIR = flags.DEFINE_string(
  "workdir", "", "Checkpoints, numbers and pictures; runs/<config.name> if empty."
)


def main(argv: list[str]) -> None:
  """Calls the loop; an error that the user can mend is one line and an exit code."""
  del argv
  logging.set_verbosity(logging.WARNING)  # libraries report every file they read
  try:
    config = _load()
    from vtr_jax.train import train_and_evaluate  # starts JAX: after the flags

    train_and_evaluate(config, _WORKDIR.value or f"runs/{config['name']}")
  except VtrError as e:
    _leave(e)
  except OSError as e:
    if e.filename is None:
      raise
    _leave(DataError(f"{e.filename}: {e.strerror}; mend it and run the command again"))


def parse(argv: list[str]) -> list[str]:
  """Parses the flags; an unknown key or a wrong value is one line."""
  try:
    return flags.FLAGS(argv)
  except Exception as e:  # ml_collections raises whatever the config file raises
    _leave(ConfigError(f"command line: {_one_line(e)}"))


def _load() -> dict:
  if _CONFIG.value is None:
    raise ConfigError("--config: missing; the demo is --config=configs/simvtp.py")
  try:
    # A file that cannot be loaded raises here, not when flags are parsed.
    return _CONFIG.value.to_dict()
  except Exception as e:
    raise ConfigError(f"--config: {_one_line(e)}") from e


def _leave(e: VtrError) -> None:
  print(f"{type(e).__name__}: {e}", file=sys.stderr, flush=True)
  sys.exit(e.exit_code)


def _one_line(e: Exception) -> str:
  text = str(e).replace("\\n", "\n").strip()
  # A config file's own error comes with its whole traceback; the last line says it.
  lines = text.splitlines()[-1:] if "Traceback" in text else text.splitlines()
  return " ".join(lines)


if __name__ == "__main__":
  app.run(main, flags_parser=parse)
