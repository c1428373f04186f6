"""Shared by all tests: small sizes, strict JAX, one tiny data set."""

import os
import pathlib
import subprocess
import sys

import pytest

from configs import simvtp
from vtr_jax.data import moving_shapes

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
  """A directory that holds moving_shapes/tiny."""
  directory = tmp_path_factory.mktemp("data")
  moving_shapes.build(directory, "tiny", progress=False)
  return directory


@pytest.fixture
def smoke(data_dir):
  """The smoke config as a plain dict, on the session's data."""
  config = simvtp.get_config("smoke").to_dict()
  config["data"]["dir"] = str(data_dir)
  return config


def run_main(*args, **env):
  """Runs the command in a process of its own; returns it, text captured."""
  command = [sys.executable, "-m", "vtr_jax.main", *map(str, args)]
  return subprocess.run(
    command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True
  )
