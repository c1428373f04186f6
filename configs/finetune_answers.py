"""Fine-tuning for video question answering, from a trained run.

  python -m vtr_jax.main --config=configs/finetune_answers.py:msvd_qa,mac \
    --config.init_from=runs/mac-webvid2m_cc3m
  python -m vtr_jax.main --config=configs/finetune_answers.py:moving_shapes,mac,demo \
    --config.init_from=runs/mac-demo

After the data set comes the config file of the run that this one starts from, and its
variant (the paper's recipe): sizes must be that run's. Data are what `vtr_jax.prepare`
writes to data/<data set>, with the questions added by --notes_of.

Sources: "ALPRO" (arXiv 2112.09583), "VIOLET" (arXiv 2111.12681), "LAVENDER" (arXiv
2206.07160), "Just-Ask" (arXiv 2012.00451) and "UMT" (arXiv 2303.16058) are the papers'
code; "ours" was chosen here: neither MAC nor MILES was fine-tuned for this, and
SimVTP's recipe is not public.
"""

import importlib
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vtr_jax.configs import common
from vtr_jax.data.moving_shapes import questions


class Recipe(NamedTuple):
  """How a data set is fine-tuned on."""

  data: str  # prepared videos, under data/
  notes: str  # set of questions
  types: tuple[str, ...]
  form: str
  asked: int  # training questions
  vocabulary: int  # answers; 0 = not open
  epochs: int
  lr: float
  batch_size: int
  validation: bool  # whether there is such a split


def _tgif(kind: str, form: str, asked: int, vocabulary: int, epochs: int) -> Recipe:
  """One of TGIF-QA's tasks, by LAVENDER's recipes; it has no validation split."""
  return Recipe(
    "tgif", "tgif_qa", (kind,), form, asked, vocabulary, epochs, 2e-5, 192, False
  )


# Questions: the publishers' files. MSVD-QA: ALPRO's recipe, with all training answers
# as in Just-Ask (its head of 2,423 has the test's). MSRVTT-QA: ALPRO's. ActivityNet-QA:
# Just-Ask's answers, those seen twice; UMT's epochs, and ALPRO's lr. TGIF-QA:
# LAVENDER's epochs and answers; counts, which it leaves out, as frame. Batch sizes:
# ALPRO's 192, ours elsewhere.
RECIPES = dict(
  msvd_qa=Recipe("msvd", "msvd_qa", (), "open", 30_933, 1852, 15, 5e-5, 192, True),
  msrvtt_qa=Recipe(
    "msrvtt", "msrvtt_qa", (), "open", 158_581, 1500, 10, 5e-5, 192, True
  ),
  tgif_action=_tgif("action", "choice", 20_471, 0, 56),
  tgif_transition=_tgif("transition", "choice", 52_704, 0, 15),
  tgif_frame=_tgif("frame", "open", 39_392, 1540, 20),
  tgif_count=_tgif("count", "count", 26_839, 0, 20),
  activitynet_qa=Recipe(
    "activitynet", "activitynet_qa", (), "open", 32_000, 1654, 12, 5e-5, 192, True
  ),
  moving_shapes=Recipe(  # ours: within 12 minutes on two cores with AVX2
    "moving_shapes", "questions", (), "open", 24_000, 31, 4, 1.4e-3, 64, True
  ),
)


def get_config(variant: str = "moving_shapes,mac,demo") -> ConfigDict:
  name, file, pretrained = common.fine_tuning(variant, RECIPES)
  recipe = RECIPES[name]
  c = importlib.import_module(f"vtr_jax.configs.{file}").get_config(pretrained)
  c.name = f"{name}-answers-{file}-{pretrained}"
  embedded, small = name == "moving_shapes", pretrained in ("demo", "smoke")
  c.steps = recipe.epochs * (recipe.asked // recipe.batch_size)
  if pretrained != "smoke":
    c.batch_size = recipe.batch_size
  c.checkpoint_every = max(c.steps // 10, 1)  # ours
  if not small:
    c.clip.num_frames = 16  # ALPRO
    c.text.max_length = 40  # ALPRO; positions of the run are cut, or added
  c.mask.update(video_ratio=0.0, text_ratio=0.0)  # ALPRO: nothing is masked
  c.data.update(curriculum=(), mixture=())
  if embedded:
    if pretrained != "smoke":
      c.data.name = "moving_shapes/full"
    c.text.max_length = 24  # ours: the longest question, words spelt; the demo has 16
    c.data.update(sampling="segments", flip=False)  # ours: mirrors change the answers
    if pretrained == "demo":  # more steps in the same minutes; ours
      c.mask.update(video="random", video_ratio=0.5)
      # Ours: without crops, 8,000 clips are memorised.
      c.data.update(crop="random_resized", crop_scales=(0.7, 1.0))
  else:
    c.data.update(
      name=recipe.data,
      sampling="segments",  # ALPRO, VIOLET: frames spread over the clip
      crop="random_resized",  # LAVENDER
      crop_scales=(0.5, 1.0),  # ours
      flip=False,  # ours: questions name left and right
    )
  c.objective = _objective(c.objective, recipe, embedded)
  # What the pre-trained run has not.
  c.init_heads = ("fusion", "head") if c.objective["fusion"] else ("head",)
  c.loss_weights = dict(answers=1.0)
  c.optim.update(
    lr=recipe.lr,
    min_lr=0.0,  # ALPRO
    schedule="cosine",  # UMT (ALPRO: linear)
    b1=0.9,  # ALPRO
    b2=0.98,  # ALPRO
    weight_decay=1e-3,  # ALPRO, VIOLET
    decay_rules=((r"kernel$", 1.0), (".*", 0.0)),  # ALPRO: neither biases nor norms
    layer_decay=1.0,  # ALPRO: one rate
    clip_norm=5.0,  # ALPRO (LAVENDER: 1)
    muon="",  # ALPRO: AdamW
    warmup_steps=c.steps // 10,  # ALPRO: a tenth
  )
  if embedded:  # a small model, minutes: as it is pre-trained; ours
    kept = {k: v for k, v in common.FROM_SCRATCH.items() if k != "decay_rules"}
    c.optim.update(kept, warmup_steps=100)
  evals = dict(test=dict(kind="answers", split="test"))
  if recipe.validation and not embedded:
    evals["validation"] = dict(kind="answers", split="validation")
  if embedded:
    evals["novel"] = dict(kind="answers", split="novel")
  c.evals = evals
  return common.complete(c)


def _objective(pretrained: Any, recipe: Recipe, embedded: bool) -> dict:
  """Section `objective`, around the pre-trained run's."""
  base = pretrained.to_dict()
  compute = base.pop("compute")
  blocks = 2 if embedded else 3  # ours; Singularity, UMT
  return dict(
    name="answers",
    base=base,
    compute=compute,
    notes=recipe.notes,
    types=recipe.types,
    form=recipe.form,
    classes=questions.ANSWERS if embedded else (),  # all; a small split lacks some
    vocabulary=recipe.vocabulary,
    fusion=0 if base["name"] == "simvtp" else blocks,
  )
