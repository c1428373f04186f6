"""Training runs in tests: started in processes, read back, compared."""

import functools
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import numpy as np
import orbax.checkpoint as ocp
from clips import prepare
from conftest import ROOT, program

from vtr_jax.data import sources
from vtr_jax.train import writer
from vtr_jax.train.loop import train_and_evaluate


def start(config, workdir, **env):
  """Starts training in a process of its own."""
  return subprocess.Popen(
    [*program("train"), json.dumps(config), str(workdir)],
    cwd=ROOT,
    env=os.environ | env,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finish(process):
  """(exit code, output)."""
  text, _ = process.communicate(timeout=240)
  return process.returncode, text


def params(workdir, step):
  """Path -> array of everything in a checkpoint's state."""
  path = workdir / "checkpoints" / str(step) / "state"
  with ocp.StandardCheckpointer() as reader:
    tree = reader.restore(path.absolute())
  return {str(k): np.asarray(v) for k, v in flat(tree)}


def flat(tree, prefix=()):
  if hasattr(tree, "items"):
    for key, value in tree.items():
      yield from flat(value, (*prefix, key))
  elif isinstance(tree, list | tuple):
    for i, value in enumerate(tree):
      yield from flat(value, (*prefix, i))
  elif tree is not None:
    yield "/".join(map(str, prefix)), tree


def losses(workdir):
  """step -> total loss."""
  records = writer.read(workdir / "metrics.jsonl")
  return {r["step"]: r["loss/total"] for r in records if "loss/total" in r}


def assert_same(ours, theirs):
  assert ours.keys() == theirs.keys()
  for name in ours:
    np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def without_evals(smoke, **changes):
  """The config without evaluations, logging every step and saving every two."""
  config = smoke | dict(evals={}, log_every=1, checkpoint_every=2) | changes
  return json.loads(json.dumps(config))


def loader_pid(pid):
  """The id of a run's loader process; its other child tracks shared memory."""
  children = []
  for file in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
    children += file.read_text().split()
  (found,) = (
    int(child)
    for child in children
    if "spawn_main" in pathlib.Path(f"/proc/{child}/cmdline").read_text()
  )
  return found


def write_damaged_data(data_dir, root, spoil, variant="tiny"):
  """Writes moving_shapes with the training videos `spoil` {index: bytes} replaced."""
  origin = sources.find(str(data_dir), f"moving_shapes/{variant}")
  splits = {}
  for name in ("train", "validation", "test", "novel"):
    source = sources.open_split(origin, name)
    splits[name] = [source[i] for i in range(len(source))]
  for index, video in spoil.items():
    splits["train"][index]["video"] = video
  directory = prepare(root, splits)
  tokenizer = (ROOT / origin / "tokenizer.model").read_bytes()
  with open(os.path.join(directory, "tokenizer.model"), "wb") as f:
    f.write(tokenizer)


@functools.cache
def _smoke_run(file, data_dir):
  """A run of two steps, trained once in each process of the tests."""
  place = tempfile.TemporaryDirectory()
  config = file.get_config("smoke").to_dict()
  config["data"]["dir"] = data_dir
  config |= dict(steps=2, checkpoint_every=2, evals={})
  config["optim"]["warmup_steps"] = 1
  train_and_evaluate(config, place.name)
  return place  # removed when the process ends


def trained_smoke(file, data_dir, place):
  """A copy, in `place`, of a run of two steps by the smoke config of `file`."""
  shutil.copytree(_smoke_run(file, str(data_dir)).name, place, dirs_exist_ok=True)
  return str(place)
