"""Other device counts: bitwise the same restored state, and the same ranks."""

import json

import pytest
from conftest import on_eight_devices
from training import without_evals

from configs import miles


@pytest.mark.nightly
def test_a_checkpoint_of_8_devices_is_restored_on_1_2_4_and_8(data_dir, tmp_path):
  """Parameters, optimiser state, EMA and teacher."""
  values = miles.get_config("smoke").to_dict()
  values["data"]["dir"] = str(data_dir)
  config = without_evals(values) | dict(mesh=dict(data=2, fsdp=2, tensor=2))
  config["optim"]["ema_decay"] = 0.5
  found = on_eight_devices("restore_on_meshes", json.dumps(config), tmp_path / "run")
  shown = [line.split() for line in found if line[0].isdigit()]
  assert [line[:2] for line in shown] == [[n, "True"] for n in "1248"]
  assert all(int(line[2]) > 100 for line in shown)


@pytest.mark.nightly
def test_ranks_do_not_depend_on_the_number_of_devices(smoke, tmp_path):
  found = on_eight_devices(
    "rank_on_meshes", json.dumps(without_evals(smoke)), tmp_path / "run"
  )
  shown = [line.split()[1:] for line in found if line.startswith("ranks")]
  assert [line[:2] for line in shown] == [[n, "True"] for n in "148"]
  assert all(int(line[2]) > 50 and float(line[3]) > 20 for line in shown)
