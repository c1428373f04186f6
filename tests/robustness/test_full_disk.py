"""A disk that is full or read-only: a run ends at the next save, and keeps the last."""

import json
import subprocess

import numpy as np
import pytest
from conftest import ROOT, program
from training import losses, params, without_evals


@pytest.mark.nightly
@pytest.mark.parametrize("what", ["full", "read_only"])
def test_a_run_on_a_full_or_read_only_disk_ends_at_the_next_save(smoke, tmp_path, what):
  command = [*program("fill_disk")]
  if what == "read_only":  # mounts of its own, which go with it
    command = ["unshare", "--map-root-user", "--mount", *command]
    if subprocess.run([*command[:3], "true"], capture_output=True).returncode:
      pytest.skip("this system lets nobody mount")
  config = without_evals(smoke, steps=40, checkpoint_keep=3)
  process = subprocess.run(
    [*command, json.dumps(config), what, str(tmp_path / "run")],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert process.returncode == 5, process.stderr
  assert "Traceback" not in process.stderr
  *others, line = process.stderr.splitlines()
  # About metrics and TensorBoard, which do not end a run.
  assert all("Read-only file system" in other for other in others), process.stderr
  assert what == "read_only" or not others
  assert "not written" in line
  assert "free disk space" in line
  assert max(losses(tmp_path / "run")) <= 6  # and not 40: the save after the failed one
  kept = {p.name for p in (tmp_path / "run" / "checkpoints").iterdir()}
  assert {n for n in kept if n.isdigit()} == {"2"}
  assert all(np.isfinite(v).all() for v in params(tmp_path / "run", 2).values())
