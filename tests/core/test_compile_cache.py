"""Compiled programs are kept between runs."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from vtr_jax.core import compile_cache
if {late}:
  import jax
compile_cache.enable()
import jax
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.jit(lambda x: x * 3 + 1)(2.0).block_until_ready()
print(jax.config.jax_compilation_cache_dir)
"""


def run(home, late=False, **env):
  """The cache directory that JAX has after `enable`."""
  plain = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
  plain |= dict(XDG_CACHE_HOME=str(home), HOME=str(home)) | env
  command = [sys.executable, "-W", "error", "-c", PROGRAM.format(late=late)]
  done = subprocess.run(command, env=plain, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return done.stdout.strip()


@pytest.mark.parametrize("late", [False, True])
def test_programs_are_kept_in_the_users_cache(tmp_path, late):
  directory = run(tmp_path, late)
  assert directory.startswith(str(tmp_path / "vtr_jax" / "xla-"))
  assert any(name.endswith("-cache") for name in os.listdir(directory))


def test_a_directory_that_the_user_names_is_kept(tmp_path):
  named = tmp_path / "named"
  assert run(tmp_path, JAX_COMPILATION_CACHE_DIR=str(named)) == str(named)
  assert not (tmp_path / "vtr_jax").exists()


def test_a_home_that_cannot_be_written_is_no_error(tmp_path):
  (tmp_path / "file").touch()
  assert run(tmp_path / "file") == "None"
