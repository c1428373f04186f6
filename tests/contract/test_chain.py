"""The README's commands, from files to evaluation results, at the smallest size."""

import json

import clips
import pytest
from conftest import run_main

LISTS = dict(train_list=range(12), val_list=range(12, 15), test_list=range(15, 20))


@pytest.fixture
def source(tmp_path):
  """Videos and annotations in the layout of MSVD."""
  (tmp_path / "videos").mkdir()
  (tmp_path / "lists").mkdir()
  for name, numbers in LISTS.items():
    ids = [f"id{i}_0_9" for i in numbers]
    (tmp_path / "lists" / f"{name}.txt").write_text("\n".join(ids) + "\n")
  with (tmp_path / "lists" / "captions.jsonl").open("w") as f:
    for i in range(20):
      printed = [f"a {c} ball moves {i % 7}" for c in ("red", "blue")]
      f.write(json.dumps(dict(id=f"id{i}_0_9", captions=printed)) + "\n")
  for i in range(20):
    data = clips.mp4(12, 48, 64, seed=i)
    (tmp_path / "videos" / f"id{i}_0_9.mp4").write_bytes(data)
  return tmp_path


def command(*args, module):
  made = run_main(*args, module=f"vtr_jax.{module}")
  assert made.returncode == 0, made.stderr
  return made.stdout


@pytest.mark.nightly  # by day: each of the commands
def test_prepare_fine_tune_evaluate(source, data_dir):
  first, run, data = (source / name for name in ("first", "msvd", "data"))
  command(
    *("--config=configs/mac.py:smoke", f"--workdir={first}"),
    *(f"--config.data.dir={data_dir}", "--config.steps=4"),
    module="main",
  )
  command(
    *("--format=msvd", f"--source={source / 'videos'}", f"--out={data}"),
    *(f"--annotations={source / 'lists'}", "--vocab_size=64", "--workers=2"),
    module="prepare",
  )
  command(
    *("--config=configs/finetune_retrieval.py:msvd,mac,smoke", f"--workdir={run}"),
    *(f"--config.init_from={first}", f"--config.data.dir={data}"),
    *("--config.steps=4", "--config.batch_size=8", "--config.checkpoint_every=2"),
    *("--config.optim.warmup_steps=1", "--config.eval_batch_size=5"),
    module="main",
  )
  printed = command(
    f"--checkpoint={run}", "--data=msvd", "--protocol=msvd", module="evaluate"
  )
  assert "msvd: 10 texts, 5 clips" in printed
  assert "NOT THE PROTOCOL'S DATA: 5 clips, not 670" in printed
  path = run / "evaluations" / "msvd" / "results.json"
  numbers = json.loads(path.read_text())["results"]
  trained = json.loads((run / "results.json").read_text())["results"]
  # Every caption is a query in both, on the same clips.
  assert numbers["t2v/R@1"] == pytest.approx(trained["test/t2v/R@1"])
