"""Saved cases of the reference codes: inputs, weights and outputs."""

import json
import os
import pathlib

import numpy as np
import pytest


def golden(name: str) -> tuple[dict[str, np.ndarray], dict]:
  """Arrays of <name>.npz and contents of <name>.json.

  Read from tests/golden, or from the directory that VTR_GOLDEN_DIR names. Where that
  directory has no such case, the test that asks for it is skipped.
  """
  default = pathlib.Path(__file__).parents[1] / "golden"
  folder = pathlib.Path(os.environ.get("VTR_GOLDEN_DIR") or default)
  for path in (folder / f"{name}.npz", folder / f"{name}.json"):
    if not path.exists():
      pytest.skip(f"no golden case {path}")
  with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
    return dict(arrays), json.loads((folder / f"{name}.json").read_text())
