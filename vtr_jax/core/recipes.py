"""Recipes by name: `--config=simvtp:webvid2m` is configs/simvtp.py, from anywhere."""

import pathlib
import re

from vtr_jax.core.config import nearest
from vtr_jax.core.errors import ConfigError

# In a checkout a link to its configs/; an installed package has the files here.
FOLDER = pathlib.Path(__file__).parents[1] / "configs"
_SHARED = {"__init__", "common"}


def names() -> list[str]:
  """Names of all recipes: the files of the folder except shared ones."""
  return sorted({path.stem for path in FOLDER.glob("*.py")} - _SHARED)


def path(chosen: str) -> str:
  """The value of a `--config`, FILE or NAME with or without :VARIANT, as FILE.

  A name has neither a slash nor a suffix.

  Raises:
    ConfigError: no recipe has that name.
  """
  name, colon, variant = chosen.partition(":")
  if not re.fullmatch(r"[\w-]+", name):
    return chosen
  if name not in names():
    close = nearest(name, names())
    raise ConfigError(f"--config: {name!r} is neither a recipe nor FILE.py; {close}")
  return f"{FOLDER / name}.py{colon}{variant}"


def of_file(file: str) -> str:
  """The end of a message about a missing config file: its recipe's name, or ""."""
  name = pathlib.Path(file).stem
  return f"; the package's recipe is --config={name}" if name in names() else ""
