"""Fine-tuning on masked clips: tubelets are dropped in training alone."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from configs import finetune_actions
from vtr_jax.core.batch import MaskSpec, patchify, unpatchify
from vtr_jax.core.config import read
from vtr_jax.core.errors import ConfigError
from vtr_jax.data import sources
from vtr_jax.data.examples import Reader
from vtr_jax.data.tokenizers.base import NoText
from vtr_jax.objectives.actions import LabelRows
from vtr_jax.train.config import TrainConfig

ROWS = 4


def built(video="random", ratio=0.5, **tower):
  values = finetune_actions.get_config("moving_shapes,mac,smoke")
  values.batch_size = ROWS
  values.mask.update(video=video, video_ratio=ratio)
  values.objective.update(drop_path=0.0)
  values.objective.video.update(tower)
  config = read(TrainConfig, values.to_dict())
  return config, config.make_objective()


def test_training_reads_the_visible_tubelets_and_prediction_reads_all():
  config, objective = built()
  spec, rng = config.spec(), np.random.default_rng(0)
  kept = spec["video_keep_idx"].shape[1]
  assert kept == config.clip.num_tubelets // 2
  batch = {k: np.zeros(s.shape, s.dtype) for k, s in spec.items()}
  batch["video"] = rng.integers(0, 256, spec["video"].shape, np.uint8)
  batch |= dict(valid=np.ones(ROWS, bool), row=np.arange(ROWS, dtype=np.int32))
  batch["video_keep_idx"][:] = np.arange(kept)
  params = nn.unbox(jax.jit(objective.init)(jax.random.key(0), batch))
  params["head"]["kernel"] = rng.normal(size=params["head"]["kernel"].shape)
  params["head"]["kernel"] = params["head"]["kernel"].astype(np.float32)

  def changed(start, stop):
    tubelets = patchify(batch["video"], config.clip.tubelet_size).copy()
    tubelets[:, start:stop] = 255 - tubelets[:, start:stop]
    return batch | dict(video=np.asarray(unpatchify(tubelets, config.clip)))

  key = jax.random.key(1)
  loss = jax.jit(lambda b: objective.forward(params, None, b, key).terms)
  masked, visible = changed(kept, None), changed(0, kept)
  assert loss(masked)["actions"].total == loss(batch)["actions"].total
  assert abs(loss(visible)["actions"].total - loss(batch)["actions"].total) > 1e-4
  logits = jax.jit(objective.predict["logits"])
  assert np.abs(logits(params, masked) - logits(params, batch)).max() > 1e-4


def test_a_row_has_the_tubelets_that_stay_visible(monkeypatch):
  config, _ = built()
  video = np.zeros((4, 32, 32, 3), np.uint8)
  monkeypatch.setattr(Reader, "read", lambda self, data, rng: video)
  rows = LabelRows(("a", "b"))

  def row(mask):
    reader = Reader(config.data, config.clip, config.text, mask, NoText())
    return rows.row(dict(label="b", video=b""), reader, np.random.default_rng(1))

  masked = row(config.mask)
  count = config.clip.num_tubelets // 2
  assert masked["video_keep_idx"].shape == (count,)
  assert (np.diff(masked["video_keep_idx"]) > 0).all()
  assert masked["label"] == 1
  assert "video_keep_idx" not in row(MaskSpec("random", 0.0))


def test_records_without_a_label_are_no_examples(monkeypatch):
  labels = ["run", "", "", "jump"]
  monkeypatch.setattr(sources, "labels", lambda *_: labels)
  monkeypatch.setattr(sources.Split, "__getitem__", lambda _, i: dict(id="abcd"[i]))
  source = sources.Split("", "train", [None] * 4)
  found = LabelRows(("run", "jump")).examples(source)
  assert [found[i]["id"] for i in range(len(found))] == ["a", "d"]
  labels[1:3] = "x", "y"
  assert LabelRows(("run",)).examples(source) is source


def test_a_backbone_that_needs_other_masks_is_refused():
  with pytest.raises(ConfigError, match=r"config\.mask\.video: 'random' masks other"):
    built(name="divided")
  built(video="tube", name="divided")
