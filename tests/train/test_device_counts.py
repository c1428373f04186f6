"""Other numbers of devices: the same state to the last bit, and the same ranks."""

import json

import pytest
from conftest import on_eight_devices
from test_loop import bare

from configs import miles

RESTORED = """
import json, sys
import jax, numpy as np
from vtr_jax.train import setup as experiment; from vtr_jax.core import sharding
from vtr_jax.train import state as state_lib
from vtr_jax.train.checkpoint import Checkpoints

run = experiment.build(json.loads(sys.argv[1]), sys.argv[2])
rng = np.random.default_rng(0)

def drawn(array):
  values = rng.integers(0, 100, array.shape)
  return jax.device_put(np.asarray(values, array.dtype), array.sharding)

state = jax.tree.map(drawn, run.state)
run.checkpoints.save(3, state, dict(step=3))
run.checkpoints.wait()
parts = run.config.parts()
for sizes in ((1, 1, 1), (1, 2, 1), (2, 1, 2), (4, 2, 1)):
  wanted = sharding.MeshConfig(*sizes)
  mesh = sharding.make_mesh(wanted, jax.devices()[: int(np.prod(sizes))])
  like = state_lib.with_shardings(*parts.abstract(mesh))
  found, meta, _ = Checkpoints(run.checkpoints._directory, 1).restore(like)
  assert meta["step"] == 3
  theirs, ours = jax.tree.leaves(found), jax.tree.leaves(state)
  same = [np.array_equal(a, b) for a, b in zip(theirs, ours, strict=True)]
  devices = {d for leaf in theirs for d in leaf.sharding.device_set}
  print(len(devices), all(same), len(same))
run.checkpoints.close()
run.writer.close()
"""


@pytest.mark.nightly
def test_a_checkpoint_of_eight_is_restored_on_one_two_four_and_eight(
  data_dir, tmp_path
):
  """Parameters, optimiser, running mean and teacher; the data go on from the step."""
  values = miles.get_config("smoke").to_dict()
  values["data"]["dir"] = str(data_dir)
  config = bare(values) | dict(mesh=dict(data=2, fsdp=2, tensor=2))
  config["optim"]["ema_decay"] = 0.5
  found = on_eight_devices(RESTORED, json.dumps(config), tmp_path / "run")
  shown = [line.split() for line in found if line[0].isdigit()]
  assert [line[:2] for line in shown] == [[n, "True"] for n in "1248"]
  assert all(int(line[2]) > 100 for line in shown)


RANKED = """
import json, sys
import jax, numpy as np
from vtr_jax.train import setup as experiment; from vtr_jax.core import sharding
from vtr_jax.eval.evaluators import base, retrieval
from vtr_jax.eval import metrics

run = experiment.build(json.loads(sys.argv[1]), sys.argv[2])
c, ranks = run.config, []
for n in (1, 4, 8):
  mesh = sharding.make_mesh(sharding.MeshConfig(n, 1, 1), jax.devices()[:n])
  rows = 8  # of 32 clips, so that devices get other rows together
  context = base.Context(
    run.objective, c.clip, c.text, c.data, run.tokenizer, mesh, rows, lambda: None
  )
  section = dict(split="test", every=0, captions="all", ties="average")
  evaluator = retrieval.Evaluator(
    retrieval.Config(**section, dual_softmax=0.0, rerank=0), context
  )
  params = jax.device_put(jax.device_get(run.state.params), sharding.replicated(mesh))
  evaluator.run(params)
  sim, owner = evaluator._sim, evaluator._owner
  ways = (metrics.text_to_video_ranks, metrics.video_to_text_ranks)
  ranks.append(np.concatenate([way(sim, owner, "average") for way in ways]))
  print("ranks", n, np.array_equal(ranks[0], ranks[-1]), len(ranks[0]), ranks[0].max())
run.checkpoints.close()
run.writer.close()
"""


@pytest.mark.nightly
def test_ranks_do_not_depend_on_the_number_of_devices(smoke, tmp_path):
  found = on_eight_devices(RANKED, json.dumps(bare(smoke)), tmp_path / "run")
  shown = [line.split()[1:] for line in found if line.startswith("ranks")]
  assert [line[:2] for line in shown] == [[n, "True"] for n in "148"]
  assert all(int(line[2]) > 50 and float(line[3]) > 20 for line in shown)
