"""Fine-tuning for action recognition, from a trained run or public weights.

  python -m vtr_jax.main --config=configs/finetune_actions.py:ucf101,mac \
    --config.init_from=runs/mac-webvid2m_cc3m
  python -m vtr_jax.main --config=configs/finetune_actions.py:kinetics400,videomae \
    --config.init_from=videomae:FILE
  python -m vtr_jax.main --config=configs/finetune_actions.py:moving_shapes,mac,demo \
    --config.init_from=runs/mac-demo
  python -m vtr_jax.main --config=configs/finetune_actions.py:folder,mac,demo \
    --config.data.name=mine --config.steps=500 ...

After the data set comes the config file of the run that this one starts from ("mac";
"videomae" for its public weights), and its variant (the paper's recipe): sizes must be
that run's. Data are what `vtr_jax.prepare` writes to data/<data set>; "folder" is a
folder of your own videos, one folder per class.

Sources: "code" is VideoMAE's scripts of this data set and its run_class_finetuning.py
(arXiv 2203.12602), for ViT-B; HMDB51, which it does not have, is as UCF101; "ours" was
chosen here.
"""

import importlib
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vtr_jax.configs import common
from vtr_jax.data.moving_shapes import scene


class Recipe(NamedTuple):
  """How a data set is fine-tuned on."""

  clips: int  # of the training split
  classes: int  # 0 = as many as there are
  epochs: int
  batch_size: int  # rows, of which `repeats` are of one clip
  layer_decay: float
  drop_path: float
  head_dropout: float
  sampling: str
  flip: bool
  segments: int  # clips per video in the test; 3 crops of each


# All code, but for hmdb51, moving_shapes and folder: ours.
RECIPES = dict(
  ucf101=Recipe(9537, 101, 100, 256, 0.70, 0.2, 0.5, "contiguous", True, 5),
  hmdb51=Recipe(3570, 51, 100, 256, 0.70, 0.2, 0.5, "contiguous", True, 5),
  kinetics400=Recipe(240_000, 400, 75, 768, 0.75, 0.1, 0.0, "contiguous", True, 5),
  ssv2=Recipe(168_913, 174, 30, 768, 0.75, 0.1, 0.0, "segments", False, 2),
  moving_shapes=Recipe(8000, 18, 25, 128, 1.0, 0.0, 0.0, "segments", False, 3),
  folder=Recipe(1000, 0, 30, 64, 0.75, 0.1, 0.0, "segments", True, 1),
)


def get_config(variant: str = "moving_shapes,mac,demo") -> ConfigDict:
  files = common.PRE_TRAINING | dict(videomae=common.PRE_TRAINING["simvtp"])
  name, file, pretrained = common.fine_tuning(variant, RECIPES, files)
  recipe, joint = RECIPES[name], "simvtp" if file == "videomae" else file
  c = importlib.import_module(f"vtr_jax.configs.{joint}").get_config(pretrained)
  c.name = f"{name}-actions-{file}-{pretrained}"
  embedded = name == "moving_shapes"
  repeats = 1 if embedded else 2  # code
  clips = recipe.batch_size // repeats
  c.steps = recipe.epochs * max(recipe.clips // clips, 1)
  if pretrained != "smoke":
    c.batch_size = recipe.batch_size
  c.checkpoint_every = max(c.steps // 10, 1)  # ours
  if not embedded and pretrained not in ("demo", "smoke"):
    c.clip.num_frames = 16  # code
  c.mask.update(video_ratio=0.0, text_ratio=0.0)  # code: nothing is masked
  if embedded and pretrained == "demo":  # more steps in the same minutes; ours
    c.mask.update(video="random", video_ratio=0.5)
  c.data.update(
    sampling=recipe.sampling,
    stride=4 if recipe.sampling == "contiguous" else 1,  # code
    flip=recipe.flip,
    curriculum=(),
    mixture=(),
  )
  if embedded:
    # Ours. Mirrors would change what happens; without crops, 8,000 clips are memorised.
    c.data.update(name="moving_shapes/tiny" if pretrained == "smoke" else c.data.name)
    c.data.update(crop="random_resized", crop_scales=(0.7, 1.0))
  else:
    c.data.update(name=name, crop="random_resized", crop_scales=(0.5, 1.0))  # ours
    c.data.rand_augment.update(n=4, magnitude=7.0, std=0.5)  # code
    c.data.update(erase=0.25, repeats=repeats)  # code
  c.objective = _objective(c.objective, recipe, embedded)
  c.init_heads = _new(c.objective)
  c.loss_weights = dict(actions=1.0)
  c.optim.update(
    lr=5e-4 * clips / 256,  # code
    min_lr=1e-6 * clips / 256,  # code
    schedule="cosine",  # code
    b1=0.9,  # code
    b2=0.999,  # code
    eps=1e-8,  # code
    weight_decay=0.05,  # code
    # Code: neither biases and norms, which it would pull towards 0, nor positions.
    decay_rules=((r"kernel$", 1.0), (".*", 0.0)),
    layer_decay=recipe.layer_decay,
    clip_norm=0.0,  # code
    muon="",  # code: AdamW
  )
  if embedded:  # a small model, minutes: as it is pre-trained; ours
    kept = {k: v for k, v in common.FROM_SCRATCH.items() if k != "decay_rules"}
    c.optim.update(kept, warmup_steps=100)
  crops = 1 if embedded else 3
  test = dict(kind="recognition", split="test", windows=recipe.segments, crops=crops)
  c.evals = dict(test=test)
  c = common.complete(c)
  if not embedded:  # code: 5 epochs; it follows --config.steps
    c.optim.warmup_steps = 5 * c.get_ref("steps") // recipe.epochs
  return c


def _objective(pretrained: Any, recipe: Recipe, embedded: bool) -> dict:
  """Section `objective`, with the video side of the pre-trained run's."""
  p = pretrained.to_dict()
  if p["name"] == "simvtp":
    arch, pool = "simvtp", "mean"  # code
    video = dict(name="vit", **p["encoder"], pos_embed=p["pos_embed"])
  else:
    arch, pool, video = p["arch"], p["pool"], p["video"]
  mixed = dict(prob=0.0) if embedded else {}
  return dict(
    name="actions",
    arch=arch,
    video=video,
    compute=p["compute"],
    pool="attention" if embedded else pool,  # ours: what moves where, not the mean
    classes=tuple(scene.LABELS) if embedded else (),  # all; a small split lacks some
    num_classes=recipe.classes,
    smoothing=0.0 if embedded else 0.1,  # code; ours: a short run
    mix=mixed,
    drop_path=recipe.drop_path,
    head_dropout=recipe.head_dropout,
  )


def _new(objective: Any) -> tuple[str, ...]:
  """Parameters that the pre-trained run has not."""
  head = ("head", "head_pool") if objective["pool"] == "attention" else ("head",)
  if objective["arch"] == "simvtp" and objective["video"]["pos_embed"] != "flat":
    # Fixed there; learned here, from the same initial values.
    return (*head, "video_tower/space_positions", "video_tower/time_positions")
  return head
