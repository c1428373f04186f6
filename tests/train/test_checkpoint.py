"""Damaged, mixed-up and older checkpoints: which one a run resumes from."""

import json
import pathlib
import shutil
import subprocess
import tempfile
from unittest import mock

import jax
import numpy as np
import pytest
import release
from conftest import ROOT, program
from training import assert_same, losses, params, without_evals

from configs import mac
from vtr_jax.core import buckets
from vtr_jax.core.errors import CheckpointError
from vtr_jax.core.mirror import Mirror
from vtr_jax.train import checkpoint, checksums, outage
from vtr_jax.train.checkpoint import CheckpointPolicy, Checkpoints
from vtr_jax.train.loop import train_and_evaluate

RELEASES = sorted((ROOT / "tests" / "golden" / "releases").iterdir())


@pytest.fixture(scope="module")
def reference_run(data_dir, tmp_path_factory):
  """(config, a run of eight steps with the checkpoints 4, 6 and 8)."""
  config = mac.get_config("smoke").to_dict()
  config["data"]["dir"] = str(data_dir)
  config = without_evals(config, steps=8, checkpoint_keep=3)
  workdir = tmp_path_factory.mktemp("reference")
  train_and_evaluate(config, workdir)
  return config, workdir


def resume(config, workdir, **policy):
  """Resumes in a process of its own: TensorStore's threads log on after an error."""
  return subprocess.run(
    [*program("train"), json.dumps(config), str(workdir), json.dumps(policy)],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


def files(workdir, step):
  """The files of a checkpoint's arrays, the largest first."""
  found = (workdir / "checkpoints" / str(step) / "state").rglob("d/*")
  return sorted(found, key=lambda p: -p.stat().st_size)


def flip(workdir, step):
  """Flips one bit of one file."""
  path = files(workdir, step)[0]
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 0x10
  path.write_bytes(data)


def cut(workdir, step):
  for path in files(workdir, step):
    path.write_bytes(path.read_bytes()[:-50])


def delete_arrays(workdir, step):
  files(workdir, step)[0].unlink()


def delete_manifest(workdir, step):
  (workdir / "checkpoints" / str(step) / "state" / "_METADATA").unlink()


def delete_meta(workdir, step):
  shutil.rmtree(workdir / "checkpoints" / str(step) / "meta")


def flip_meta(workdir, step):
  """Changes the number of the next batch; the file is valid JSON still."""
  path = workdir / "checkpoints" / str(step) / "meta" / "metadata"
  text = path.read_text()
  assert f'"next_batch": {step}' in text
  path.write_text(text.replace(f'"next_batch": {step}', f'"next_batch": {step + 1}'))


def mix(workdir, step):
  """Puts in the arrays of an older step, as an interrupted copy may leave them."""
  place = workdir / "checkpoints"
  shutil.rmtree(place / str(step) / "state")
  shutil.copytree(place / str(step - 2) / "state", place / str(step) / "state")


@pytest.mark.parametrize(
  "damages",
  [
    (flip, delete_manifest, mix),
    pytest.param(
      (cut, delete_arrays, delete_meta, flip_meta), marks=pytest.mark.nightly
    ),
  ],
)
def test_a_run_resumes_from_the_newest_undamaged_checkpoint(
  damages, reference_run, tmp_path
):
  config, origin = reference_run
  places = [tmp_path / damage.__name__ for damage in damages]
  for damage, place in zip(damages, places, strict=True):
    shutil.copytree(origin, place)
    damage(place, 8)
  # In a process of its own: TensorStore's threads log on after an error.
  run = subprocess.run(
    [*program("restore"), json.dumps(config), *map(str, places)],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  lines = run.stdout.splitlines()
  assert [s for s in lines if s.startswith("step ")] == ["step 6"] * len(damages), (
    run.stderr
  )
  warnings = [line for line in lines if line.startswith("WARNING: ")]
  for place, line in zip(places, warnings, strict=True):
    assert f"{place}/checkpoints/8: cannot be restored (" in line
    assert f"moved to {place}/damaged/8-1; the run resumes from step 6" in line
    (incident,) = (place / "incidents.jsonl").read_text().splitlines()
    assert json.loads(incident)["what"] in line
    assert (place / "damaged" / "8-1").is_dir()


@pytest.mark.nightly
def test_a_run_resumed_from_an_older_checkpoint_ends_bitwise_the_same(
  reference_run, tmp_path
):
  config, origin = reference_run
  workdir = tmp_path / "run"
  shutil.copytree(origin, workdir)
  delete_arrays(workdir, 8)
  run = resume(config, workdir)
  assert run.returncode == 0, run.stderr
  assert not run.stderr  # Orbax has a page for each array that is not there
  assert "training from step 6 to 8" in run.stdout
  assert_same(params(workdir, 8), params(origin, 8))
  assert losses(workdir) == losses(origin)


def test_strict_restore_rejects_a_damaged_newest_checkpoint(reference_run, tmp_path):
  config, origin = reference_run
  workdir = tmp_path / "run"
  shutil.copytree(origin, workdir)
  delete_arrays(workdir, 8)
  run = resume(config, workdir, strict_restore=True)
  assert run.returncode == 5
  (line,) = run.stderr.splitlines()
  assert line.startswith("CheckpointError: ")
  assert f"{workdir}/checkpoints/8: cannot be restored (" in line
  assert "without --strict_restore the run resumes from the previous one" in line
  assert (workdir / "checkpoints" / "8").is_dir()


def test_if_every_checkpoint_is_damaged_none_is_moved(reference_run, tmp_path):
  """The reader may be at fault, rather than the files."""
  config, origin = reference_run
  workdir = tmp_path / "run"
  shutil.copytree(origin, workdir)
  for step in (4, 6, 8):
    delete_arrays(workdir, step)
  run = resume(config, workdir)
  assert run.returncode == 5
  assert f"{workdir}/checkpoints/8: cannot be restored (" in run.stderr
  assert not (workdir / "damaged").exists()
  assert {"4", "6", "8"} <= {p.name for p in (workdir / "checkpoints").iterdir()}


def test_verify_saves_detects_a_disk_that_wrote_something_else(tmp_path, monkeypatch):
  """With `verify_saves`, each checkpoint is read again after it is written."""
  state = dict(params=dict(x=jax.numpy.arange(3.0), y=jax.numpy.ones(5)))
  other = dict(params=dict(x=jax.numpy.arange(3.0), y=jax.numpy.zeros(5)))
  wait = Checkpoints.wait

  def bad_disk(kept):
    wait(kept)
    place = tmp_path / "run"
    shutil.rmtree(place / "4" / "state")
    shutil.copytree(tmp_path / "other" / "4" / "state", place / "4" / "state")

  for name, values in dict(run=state, other=other).items():
    kept = Checkpoints(tmp_path / name, 5, CheckpointPolicy(verify_saves=True))
    kept.save(2, values, {})
    if name == "other":
      kept.save(4, values, {})
    kept.close()
  kept = Checkpoints(tmp_path / "run", 5, CheckpointPolicy(verify_saves=True))
  monkeypatch.setattr(Checkpoints, "wait", bad_disk)
  with pytest.raises(
    CheckpointError, match=r"4: differs from what was saved \(params/y: val"
  ):
    kept.save(4, state, {})
  monkeypatch.undo()
  kept.close()


def test_processes_agree_on_whether_a_save_has_failed(tmp_path, monkeypatch, capfd):
  """As in a run of two processes, of which this one can always write the bucket."""
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  monkeypatch.setattr(buckets, "forget", lambda: None)
  mirror, others, asked = Mirror("gs://bucket/run"), [], []
  monkeypatch.setattr(mirror, "_try", lambda upload: True)

  def all_processes(ok):
    asked.append(ok)
    return ok and (others.pop(0) if others else True)

  for module in (checkpoint, outage):
    monkeypatch.setattr(module, "all_processes", all_processes)
  kept = Checkpoints(tmp_path / "run", 5, mirror=mirror)
  state = dict(params=dict(x=jax.numpy.arange(3.0)))
  answers = {
    2: [False],  # the other one cannot reach the bucket
    3: [True, False],  # it could not start to save
    4: [True, True, False],  # it could not end
  }
  for step, given in answers.items():
    others[:] = given
    kept.save(step, state, {})
    kept.wait()
    assert not others
    assert kept._outage.step == step
    assert f"checkpoint {step} is in " in capfd.readouterr().err
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(CheckpointError, match="checkpoint 4 is not written"):
      kept.close()
  kept.save(5, state, {})  # the other one writes again
  kept.wait()
  assert (kept._outage.step, kept.latest_step()) == (0, 5)
  kept.save(6, state, {})
  kept._manager.wait_until_finished()
  before = len(asked)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "process_count", lambda: 2)
    patch.setattr(kept._manager, "wait_until_finished", mock.Mock(side_effect=OSError))
    with pytest.raises(CheckpointError, match="checkpoint 6 is not written"):
      kept.close(agreed=False)  # nobody would answer
  assert len(asked) == before
  kept._manager.close()


def test_checksums_change_with_every_bit():
  """They are equal on host and device, for each dtype."""
  rng = np.random.default_rng(0)
  arrays = [rng.normal(size=(5, 3)).astype(np.float32), np.int32(-3)]
  arrays += [jax.numpy.asarray(arrays[0], jax.numpy.bfloat16), np.float32([np.nan])]
  tree = dict(enumerate(jax.numpy.asarray(a) for a in arrays))
  sums = checksums.tree_checksums(tree).tolist()
  assert sums == [checksums.host_checksum(np.asarray(a)) for a in tree.values()]
  flipped = np.asarray(tree[0]).copy()
  flipped.view(np.uint32)[2, 1] ^= 1
  assert checksums.host_checksum(flipped) != sums[0]


def test_stored_checksums_do_not_depend_on_the_mesh(reference_run):
  """See also test_meshes.py: there the state itself moves between meshes."""
  _, origin = reference_run
  meta = json.loads((origin / "checkpoints/8/meta/metadata").read_text())
  saved = params(origin, 8)
  assert len(meta["sums"]) == len(saved)
  assert sorted(meta["sums"]) == sorted(map(checksums.host_checksum, saved.values()))


def test_drop_after_deletes_later_checkpoints(tmp_path):
  kept = Checkpoints(tmp_path / "run", 5)
  assert kept.before(6) is None
  state = dict(params=dict(x=jax.numpy.arange(3.0)))
  for step in (2, 4, 6):
    kept.save(step, state, {})
    kept.wait()
  assert kept.before(6) == 4
  assert kept.before(2) == 2  # the oldest, where none is before
  kept.drop_after(2)
  assert kept.latest_step() == 2
  kept.close()


@pytest.mark.parametrize("place", RELEASES, ids=lambda p: p.name)
def test_checkpoints_of_all_releases_are_read(place, data_dir, tmp_path):
  """With teacher, EMA, loss history and both optimisers; then trained for a step."""
  shutil.copytree(place, tmp_path / "run")
  expected = dict(np.load(place / "expected.npz"))
  values = json.loads((place / "config.json").read_text())
  values["data"]["dir"] = str(data_dir)
  run = pathlib.Path(tmp_path / "run")
  found = release.embeddings(run) | release.next_step(run, values)
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
