"""Writes vtr_jax/weights/recipes.json: the configs that `convert` starts from.

The package does not import configs/, so it stores the resolved values of those that
public weights need.

  PYTHONPATH=. python tests/support/recipes.py
"""

import importlib
import json
import pathlib

from vtr_jax.train import workdir
from vtr_jax.weights.registry import SOURCES

FILE = pathlib.Path(__file__).parents[2] / "vtr_jax" / "weights" / "recipes.json"


def resolved() -> dict:
  """Recipe -> its complete config, as JSON has it."""
  found = {}
  for recipe in sorted({source.recipe for source in SOURCES.values()}):
    file, _, variant = recipe.partition(":")
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    found[recipe] = workdir.plain(module.get_config(variant).to_dict())
  return found


if __name__ == "__main__":
  FILE.write_text(json.dumps(resolved(), indent=1, sort_keys=True) + "\n")
