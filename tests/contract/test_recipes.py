"""Fine-tuning configs: every data set, from every objective's recipe."""

import flax.linen as nn
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from configs import clip4clip
from configs import finetune_retrieval as finetune
from vtr_jax.core.config import read
from vtr_jax.train import optim, state
from vtr_jax.train.config import TrainConfig


@pytest.mark.parametrize("data", finetune.DATASETS)
@pytest.mark.parametrize("run", ["mac", "miles", "simvtp", "mac,flickr8k", "mac,clip"])
def test_every_fine_tuning_hides_nothing_and_only_contrasts(data, run):
  values = finetune.get_config(f"{data},{run}").to_dict()
  config = read(TrainConfig, values)
  objective = config.make_objective()
  assert set(config.loss_weights) == {"vtc", *objective.terms}
  assert {k for k, v in config.loss_weights.items() if v} == {"vtc"}
  assert config.spec()["video_mask_idx"].shape == (config.batch_size, 0)
  assert config.optim.warmup_steps < config.steps


@pytest.mark.parametrize("data", finetune.DATASETS)
def test_clip4clip_sees_each_frame_alone(data):
  """Nothing is hidden, embeddings stay as they are, and the model is CLIP B/32."""
  config = read(TrainConfig, clip4clip.get_config(data).to_dict())
  objective = config.make_objective()
  assert config.spec()["video_mask_idx"].shape == (config.batch_size, 0)
  params = flatten_dict(
    nn.unbox(state.abstract_params(objective, config.spec())), sep="/"
  )
  assert params["video_tower/space_positions"].shape == (50, 768)
  assert "video_tower/time_positions" not in params
  rates = flatten_dict(
    optim.by_rule(unflatten_dict(params, sep="/"), config.optim.lr_rules, "rules"),
    sep="/",
  )
  frozen = {path.split("/")[1] for path, rate in rates.items() if not rate}
  assert frozen == {"proj", "cls_token", "space_positions", "norm_input", "embed"}


def test_a_data_set_or_run_that_is_not_there_is_refused():
  with pytest.raises(ValueError, match="'msrvt' is unknown; known: msrvtt"):
    finetune.get_config("msrvt")
  with pytest.raises(ValueError, match="'clip' is unknown; known: mac"):
    finetune.get_config("msvd,clip")
