"""What the commands share: flags, --config and --workdir, errors as one line."""

import errno
import functools
import logging
import os
import pathlib
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from vtr_jax.core import (
  compile_cache,
  config_help,
  paths,
  recipes,
  renames,
  shutdown,
)
from vtr_jax.core.errors import (
  ConfigError,
  DataError,
  DivergedError,
  Preempted,
  VtrError,
  one_line,
)

# `--help` lists the flags that are defined here as those of the command.
flags.disclaim_key_flags()

# A config to the comments of its dotted keys.
Comments = Callable[[dict[str, Any]], Mapping[str, str]]

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)

_HELP = ("--help", "-help", "-h")
_CONFIG = ("--config", "-config")
# Flags whose values are paths, of all commands.
_PATHS = frozenset(
  {
    *("workdir", "data", "checkpoint", "out", "to", "tokenizer", "image", "clip"),
    *("push", "texts_file", "embeddings", "source", "annotations", "check", "notes_of"),
    *("classes", "predictions", "answers", "candidates", "save_embeddings"),
    *("config", "config.data.dir", "config.tokenizer", "config.init_from"),
  }
)
# Those that may be in a bucket, where the command does not rule it out.
_BUCKETS = frozenset(
  {
    *("workdir", "data", "checkpoint", "out", "push"),
    *("config.data.dir", "config.init_from"),
  }
)


def start(
  call: Callable[[dict, str], object],
  config: str | None,
  hint: str,
  peers: bool = False,
  comments: Comments | None = None,
  here: frozenset[str] = frozenset(),
) -> None:
  """Parses the flags and calls `call(config, workdir)`; ends the process.

  Args:
    call: the command.
    config: the default of `--config`; None = the flag is required.
    hint: ends the error message of a missing `--config`.
    peers: whether several processes may run the command together.
    comments: see `run`.
    here: see `run`.
  """
  if peers:
    define_peers()
  # A flag's own default would be loaded here, where its errors are not caught.
  if config is not None and not _config_files(sys.argv):
    sys.argv.insert(1, f"--config={config}")
  known = ", ".join(recipes.names())
  text = f"Config: FILE, or one of {known}; perhaps with :VARIANT. Default: {config}."
  chosen = config_flags.DEFINE_config_file("config", None, text, lock_config=True)
  workdir = flags.DEFINE_string(
    "workdir", "", "Checkpoints, metrics and figures; runs/<config.name> if empty."
  )

  def work() -> None:
    values = load(chosen, hint)
    if peers:
      connect()
    call(values, workdir.value or f"runs/{values.get('name', 'unnamed')}")

  run(work, comments=comments, here=here)


def run(
  work: Callable[..., object],
  arguments: bool = False,
  comments: Comments | None = None,
  here: frozenset[str] = frozenset(),
) -> None:
  """Parses the flags that are defined and calls `work()`; ends the process.

  Args:
    work: the command.
    arguments: call `work(*words)` with the arguments that are not flags.
    comments: config to comments of its keys' dataclass fields, for `--help`.
    here: names of flags that may not be in a bucket, though other commands' may.
  """

  def main(argv: list[str]) -> None:
    _quiet_libraries()
    shutdown.handle_ctrl_c()
    try:
      if argv[1:] and not arguments:
        raise ConfigError(
          f"command line: {argv[1]!r} is not a flag; flags start with --"
        )
      work(*argv[1:] if arguments else ())
      shutdown.check_output()
      _exit_together(0)
      shutdown.exit_now(0)
    except VtrError as e:
      _exit(e)
    except OSError as e:
      if isinstance(e, BrokenPipeError) and shutdown.output_is_closed():
        shutdown.exit_now(128 + signal.SIGPIPE)  # as if SIGPIPE had ended it
      # A write that the disk rejects has no file name.
      if e.filename is None and e.errno not in _DISK:
        _crash()
      where = e.filename or "a file that is being written"
      cure = "fix it and run it again"
      if isinstance(e, FileNotFoundError) and e.filename:
        cure += paths.near(e.filename)
      _exit(DataError(f"{where}: {e.strerror}; {cure}"))
    except KeyboardInterrupt:
      shutdown.interrupted()
    except Exception as e:
      if (error := _missing_platform(e)) is None:
        _crash()
      _exit(error)

  compile_cache.enable()
  parse = functools.partial(_parse, comments=comments, buckets=_BUCKETS - here)
  app.run(main, flags_parser=parse)


def _missing_platform(e: Exception) -> ConfigError | None:
  """What to say if `e` means that JAX cannot use what JAX_PLATFORMS names."""
  platforms = os.environ.get("JAX_PLATFORMS")
  # JAX's AssertionError where a plugin sees no device; it has no message.
  where = traceback.format_exc() if isinstance(e, RuntimeError | AssertionError) else ""
  if not platforms or "jax/_src/xla_bridge.py" not in where:
    return None
  reason = one_line(e).partition(" (set JAX_PLATFORMS")[0].rstrip(".")
  return ConfigError(
    f"JAX_PLATFORMS={platforms}: JAX finds none here ({reason}); unset it, or install "
    "JAX's plugin by ACCELERATOR=cuda12, cuda13 or tpu ./launch/setup.sh"
  )


def _crash() -> NoReturn:
  """Re-raises the error that is being handled: a bug in this package."""
  if not _several():
    raise
  shutdown.print_line(traceback.format_exc())
  shutdown.exit_now(1)


def _quiet_libraries() -> None:
  """Silences log lines that are routine, or duplicate an exception."""
  # Otherwise libraries log every file that they read.
  absl_logging.set_verbosity(absl_logging.WARNING)
  # Orbax logs an error four times, with its stack, and raises it too.
  keep = lambda record: "orbax" not in record.pathname
  absl_logging.get_absl_logger().addFilter(keep)
  # Orbax's tasks for the other arrays of a checkpoint, when one cannot be read.
  logging.getLogger("asyncio").setLevel(logging.CRITICAL)
  # Commands end by os._exit, without Python's finalizers. Its resource tracker, another
  # process, then removes the semaphores of workers' queues, and would report them.
  sys.warnoptions.append("ignore:resource_tracker:UserWarning")
  # gcsfs logs what it raises, with the stack.
  logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
  default = sys.unraisablehook

  def hook(unraisable: Any) -> None:
    # Errors in TensorStore's threads, one per array of a failed save, and in those
    # tasks, when they are garbage-collected.
    code = getattr(unraisable.object, "cr_code", None)
    is_orbax = code is not None and "orbax" in code.co_filename
    if not is_orbax and str(unraisable.exc_value) != "Event loop is closed":
      default(unraisable)

  sys.unraisablehook = hook


def define_peers() -> None:
  """Flags that identify this process within the run."""
  flags.DEFINE_string(
    "coordinator", "", "host:port of process 0, if there are several; or auto."
  )
  flags.DEFINE_integer("num_processes", 0, "Number of processes.")
  flags.DEFINE_integer("process_id", -1, "Index of this process, from 0.")
  flags.DEFINE_float("start_timeout", 300.0, "Seconds to wait for all processes.")
  flags.DEFINE_integer(
    "heartbeat", 100, "Seconds without a heartbeat of a process that end the run."
  )


def connect() -> None:
  """Connects to the other processes, if the flags or the environment name any."""
  from vtr_jax.core import distributed  # starts JAX: after the flags

  values = flags.FLAGS
  peers = distributed.find(
    values.coordinator,
    values.num_processes,
    values.process_id,
    timeout=values.start_timeout,
    heartbeat=values.heartbeat,
  )
  distributed.start(peers)


def _parse(
  argv: list[str],
  comments: Comments | None = None,
  buckets: frozenset[str] = frozenset(),
) -> list[str]:
  """Parses the flags; an unknown key or a wrong value ends with one line."""
  try:
    argv[:] = _with_recipes(paths.arguments(argv, _PATHS, buckets))
  except ConfigError as e:
    _reject(str(e))
  _let_configs_import(argv)
  for path in _config_files(argv) if "config" in flags.FLAGS else ():
    if not pathlib.Path(path).exists():
      hint = paths.near(path) or recipes.of_file(path)
      _reject(f"--config: {path}: no such file{hint}")
  if set(_HELP) & set(argv):
    _help([text for text in argv if text not in _HELP], comments)
  try:
    return flags.FLAGS(argv)
  except KeyboardInterrupt:
    shutdown.interrupted()
  except Exception as e:  # ml_collections raises whatever the config file raises
    # ml_collections names a key that the config lacks first, in quotes.
    unknown = str(e).partition("\n")[0].strip("'\"")
    current = [renames.argument(text, unknown) for text in argv]
    if current != argv:
      for old, new in zip(argv, current, strict=True):
        if old != new:
          before, after = (text.partition("=")[0] for text in (old, new))
          now = f"is called {after} now" if new else "no longer a key; leave it out"
          shutdown.print_line(f"{before}: {now}")
      current = [text for text in current if text]
      flags.FLAGS.unparse_flags()
      for name in [name for name in flags.FLAGS if name.startswith("config.")]:
        delattr(flags.FLAGS, name)  # defined again by the next attempt
      sys.argv = current  # where ml_collections looks for the config's keys
      return _parse(current, buckets=buckets)
    _reject(_reason(argv, e))


def _reject(reason: str) -> NoReturn:
  error = ConfigError(reason)
  _print_error(error)
  sys.exit(error.exit_code)


def _help(argv: list[str], comments: Comments | None) -> NoReturn:
  """Prints the flags, and the keys of the config that is named; ends with code 0."""
  app.usage(shorthelp=True, writeto_stdout=True)
  if files := _config_files(argv):
    _parse(argv, buckets=_BUCKETS)
    config: Any = flags.FLAGS["config"].value
    values = config.to_dict()
    print(config_help.text(files[-1], values, comments(values) if comments else None))
  elif "config" in flags.FLAGS:
    print("With --config=FILE, --help also lists the keys of that config.")
  sys.exit(0)


def _with_recipes(argv: list[str]) -> list[str]:
  """The arguments, with the file of a recipe that `--config` names."""
  if "config" not in flags.FLAGS:
    return argv
  result, waiting = [], False
  for text in argv:
    name, equals, value = text.partition("=")
    if waiting:
      text = recipes.path(text)
    elif equals and name in _CONFIG:
      text = f"{name}={recipes.path(value)}"
    waiting = not waiting and text in _CONFIG
    result.append(text)
  return result


def _let_configs_import(argv: list[str]) -> None:
  """A config may import the files of its folder: `from configs import common`."""
  for path in _config_files(argv):
    folder = pathlib.Path(path).absolute().parent.parent
    if str(folder) not in sys.path:
      sys.path.append(str(folder))


def _config_files(argv: list[str]) -> list[str]:
  """Files of `--config=FILE:VARIANT` and `--config FILE:VARIANT`, without variants."""
  files = []
  for text, after in zip(argv, [*argv[1:], ""], strict=True):
    name, equals, value = text.partition("=")
    if name in _CONFIG:
      files.append((value if equals else after).partition(":")[0])
  return [path for path in files if path]


def load(chosen: flags.FlagHolder, hint: str) -> dict:
  """The values of `--config`."""
  if chosen.value is None:
    raise ConfigError(f"--config: missing; {hint}")
  try:
    # A file that cannot be loaded raises here, not when flags are parsed.
    values = chosen.value.to_dict()
  except Exception as e:
    raise ConfigError(f"--config: {_one_line(e)}") from e
  values, renamed = renames.upgrade(values)
  for line in renamed:
    shutdown.print_line(line)
  return values


def _print_error(e: VtrError) -> None:
  shutdown.print_line(f"{type(e).__name__}: {e}")


def _exit(e: VtrError) -> NoReturn:
  _print_error(e)
  if isinstance(e, Preempted | DivergedError):  # raised by all processes
    _exit_together(e.exit_code)
  # The other processes of the run end when this one's heartbeat is missing.
  shutdown.exit_now(e.exit_code)


def _exit_together(code: int) -> None:
  """Ends this process and the others of the run, if there are any."""
  if _several():
    from vtr_jax.core import distributed

    distributed.exit_together(code)


def _several() -> bool:
  """Whether the run has several processes; does not start JAX."""
  jax = sys.modules.get("jax")
  return jax is not None and jax.distributed.is_initialized()


def _one_line(e: Exception) -> str:
  text = str(e).replace("\\n", "\n").strip()
  # A config file's error includes its traceback; the last line is the message.
  lines = text.splitlines()[-1:] if "Traceback" in text else text.splitlines()
  return " ".join(lines)


def _reason(argv: list[str], e: Exception) -> str:
  """One line that names the flag which was not accepted."""
  # ml_collections: "'lrr' Did you mean "lr" instead of "lrr"?"
  if found := re.search(r'Did you mean "(.+)" instead of "(.+)"\?', str(e)):
    close, wrong = found.groups()
    names = [text.partition("=")[0].lstrip("-") for text in argv]
    key = next((n for n in names if wrong in n.split(".")[1:]), wrong)
    return f"{key}: unknown key; did you mean {close!r}?"
  return f"command line: {_one_line(e)}"
