"""Where public files of data sets are: VTR_SHARED_DIR, or ../shared."""

import os
import pathlib

import pytest
from conftest import ROOT

SHARED = pathlib.Path(os.environ.get("VTR_SHARED_DIR", ROOT.parent / "shared"))
DOWNSTREAM = SHARED / "data" / "downstream"


def downstream(*names):
  """A path below downstream; skips the test if it is not there."""
  path = DOWNSTREAM.joinpath(*names)
  if not path.exists():
    pytest.skip(f"{path}: real files are not here")
  return path
