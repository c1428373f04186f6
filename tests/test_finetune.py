"""Fine-tuning configs: every data set, from every objective's recipe."""

import pytest

from configs import finetune_retrieval as finetune
from vtr_jax import batch, experiment
from vtr_jax.config import read
from vtr_jax.objectives import base


@pytest.mark.parametrize("data", finetune.DATASETS)
@pytest.mark.parametrize("run", ["mac", "miles", "simvtp", "mac,flickr8k"])
def test_every_fine_tuning_hides_nothing_and_only_contrasts(data, run):
  values = finetune.get_config(f"{data},{run}").to_dict()
  config = read(experiment.TrainConfig, values)
  objective = base.build(config.objective, config.clip, config.text, config.mask)
  assert set(config.weights) == {"vtc", *objective.terms}
  assert {k for k, v in config.weights.items() if v} == {"vtc"}
  spec = batch.spec(config.clip, config.text, config.mask, 2)
  assert spec["video_mask_idx"].shape == (2, 0)
  assert config.optim.warmup_steps < config.steps


def test_a_data_set_or_run_that_is_not_there_is_refused():
  with pytest.raises(ValueError, match="'msrvt' is unknown; known: msrvtt"):
    finetune.get_config("msrvt")
  with pytest.raises(ValueError, match="'clip' is unknown; known: mac"):
    finetune.get_config("msvd,clip")
