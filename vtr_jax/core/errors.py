"""Errors a user can cause or must act on, each with its documented exit code.

A message is one line: the file or key, what is wrong, and what to do about it.
`cli.run` prints the line without a traceback and exits with `exit_code`.
"""


def one_line(error: Exception | str) -> str:
  """A library's error message, shortened to fit one line."""
  return " ".join(str(error).split())[:200] or type(error).__name__


def printable(text: str) -> str:
  """`text` with control characters, and bytes that are not text, escaped."""
  if text.isprintable():
    return text
  escape = lambda c: c if c.isprintable() else c.encode("unicode_escape").decode()
  return "".join(map(escape, text))


class VtrError(Exception):
  """Base of every error that ends a command with one line and an exit code."""

  exit_code = 2

  def __str__(self) -> str:
    # It may quote any file. Line ends stay: some messages are lists.
    return "\n".join(map(printable, super().__str__().split("\n")))


class ConfigError(VtrError):
  """A config key is unknown, missing, of the wrong type or out of range."""

  exit_code = 2


class DataError(VtrError):
  """Data is missing, empty, damaged or of another schema."""

  exit_code = 2


class NotFiniteError(DataError):
  """An embedding or a score is not a number. In training: it has diverged."""


class BadSample(DataError):
  """One record cannot be used. Training replaces it, evaluation stops."""


class MissingPackage(BadSample):
  """A file needs an optional package: it can be read once that is installed."""


class WeightsError(VtrError):
  """A weights file cannot be read, or does not fit the model key by key."""

  exit_code = 2


class DataBudgetError(VtrError):
  """More records were bad than `data.max_bad_fraction` allows."""

  exit_code = 3


class DistributedError(VtrError):
  """Another process of the run is missing or has ended."""

  exit_code = 2


class DivergedError(VtrError):
  """A loss or gradient is no longer finite."""

  exit_code = 4


class CheckpointError(VtrError):
  """A checkpoint cannot be read, or belongs to another model."""

  exit_code = 5


class Preempted(VtrError):
  """Stopped by a signal, after saving; the launcher should requeue."""

  exit_code = 85
