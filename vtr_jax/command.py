"""What the commands share: flags, --config and --workdir, errors as one line."""

import sys
from collections.abc import Callable

from absl import app, flags, logging
from ml_collections import config_flags

from vtr_jax.errors import ConfigError, DataError, VtrError


def start(call: Callable[[dict, str], object], config: str | None, hint: str) -> None:
  """Parses the flags and calls `call(config, workdir)`; ends the process.

  Args:
    call: the command's work.
    config: the config file that is used if none is given.
    hint: what to do if none is given, and `config` is None.
  """
  chosen = config_flags.DEFINE_config_file("config", config, lock_config=True)
  place = flags.DEFINE_string(
    "workdir", "", "Checkpoints, numbers and pictures; runs/<config.name> if empty."
  )

  def work() -> None:
    values = _load(chosen, hint)
    call(values, place.value or f"runs/{values.get('name', 'unnamed')}")

  run(work)


def run(work: Callable[[], object]) -> None:
  """Parses the flags that are defined and calls `work()`; ends the process."""

  def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)  # libraries report every file they read
    try:
      work()
    except VtrError as e:
      _leave(e)
    except OSError as e:
      if e.filename is None:
        raise
      _leave(DataError(f"{e.filename}: {e.strerror}; mend it and run it again"))

  app.run(main, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
  """Parses the flags; an unknown key or a wrong value is one line."""
  try:
    return flags.FLAGS(argv)
  except Exception as e:  # ml_collections raises whatever the config file raises
    _leave(ConfigError(f"command line: {_one_line(e)}"))


def _load(chosen: flags.FlagHolder, hint: str) -> dict:
  if chosen.value is None:
    raise ConfigError(f"--config: missing; {hint}")
  try:
    # A file that cannot be loaded raises here, not when flags are parsed.
    return chosen.value.to_dict()
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
