"""A tiny run that is kept: each release adds one, and all later releases read it.

python tests/support/release.py tests/golden/releases/VERSION
"""

import contextlib
import json
import pathlib
import shutil
import sys
import tempfile

import jax
import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from configs import miles  # noqa: E402
from vtr_jax.core import batch, sharding  # noqa: E402
from vtr_jax.inference import load as load_lib  # noqa: E402
from vtr_jax.train import setup  # noqa: E402
from vtr_jax.train.checkpoint import CheckpointPolicy  # noqa: E402
from vtr_jax.train.loop import train_and_evaluate  # noqa: E402


def config() -> dict:
  """MILES, with a teacher, an EMA, a loss history and two optimisers' states."""
  c = miles.get_config("smoke").to_dict()
  tower = dict(width=16, depth=1, mlp_dim=32, num_heads=2)
  c |= dict(steps=3, checkpoint_every=3, checkpoint_keep=1, evals={}, name="release")
  c["clip"] |= dict(num_frames=2, image_size=16, tubelet_size=(1, 8, 8))
  c["objective"] |= dict(video=c["objective"]["video"] | tower, text=tower)
  c["optim"] |= dict(ema_decay=0.5)
  c["guard"] |= dict(spike=20.0, window=4)
  return json.loads(json.dumps(c))


def embeddings(run: pathlib.Path) -> dict[str, np.ndarray]:
  """Embeddings of a fixed batch by the run's newest checkpoint."""
  model = load_lib.load(run, text=False)
  c, o = model.config, model.objective
  given = batch.fake(c.clip, c.text, c.mask, 4)
  return dict(
    video=np.asarray(jax.jit(o.predict["embed_video"])(model.params, given)),
    text=np.asarray(jax.jit(o.predict["embed_text"])(model.params, given)),
  )


def next_step(run: pathlib.Path, values: dict) -> dict[str, np.ndarray]:
  """The metrics of one more step of the run on a fixed batch."""
  # The embedded data set changes now and then; the batch used here does not.
  made = setup.build(values, run, policy=CheckpointPolicy(allow_data_change=True))
  c = made.config
  given = batch.fake(c.clip, c.text, c.mask, c.batch_size)
  _, numbers = made.train_step(made.state, sharding.put_batch(given, made.mesh))
  made.checkpoints.close()
  made.writer.close()
  return {k.replace("/", "."): np.asarray(v) for k, v in numbers.items()}


def make(place: pathlib.Path) -> None:
  values, run = config(), pathlib.Path("run")
  place = place.absolute()
  with tempfile.TemporaryDirectory() as root, contextlib.chdir(root):
    values["data"]["dir"] = "data"  # no path of this machine in config and meta
    train_and_evaluate(values, run)
    place.mkdir(parents=True)
    shutil.copy(run / "config.json", place)
    shutil.copytree(run / "checkpoints", place / "checkpoints")
    for path in place.rglob("commit_success.txt"):
      path.write_text("done\n")  # it contains the absolute path
    found = embeddings(place) | next_step(run, values)
    np.savez(place / "expected.npz", **found)


if __name__ == "__main__":
  make(pathlib.Path(sys.argv[1]))
