"""MILES: a dual encoder that also predicts its own snapshot's features.

  python -m vtr_jax.main --config=configs/miles.py                 the demo, on CPU
  python -m vtr_jax.main --config=configs/miles.py:smoke           seconds, for tests
  python -m vtr_jax.main --config=configs/miles.py:webvid2m_cc3m   the paper's recipe

Sources: "paper" is arXiv 2204.12408 (text or figures), "code" the authors' evaluation
code, "MCQ" their sibling work's training code (arXiv 2201.04850), "inferred" a value
that is backed by nothing found, "Frozen" the code that all of it builds on, "ours" was
chosen here: no training code of MILES is public.
"""

from ml_collections import ConfigDict

from vtr_jax.configs import common


def get_config(variant: str = "demo") -> ConfigDict:
  variant = common.variant(variant, ("demo", "smoke", "webvid2m_cc3m"))
  c = common.editable(webvid2m_cc3m() if variant == "webvid2m_cc3m" else demo())
  if variant == "smoke":
    common.shrink(c)
    c.objective.video.update(common.size("mu"))
    c.objective.text.update(common.size("mu"))
  c.name = f"miles-{variant}"
  return common.complete(c)


def webvid2m_cc3m() -> dict:
  """Pre-training on 5.5 M pairs, ViT-B/16 and DistilBERT; MCQ's second stage."""
  return dict(
    steps=10 * (5_500_000 // 800),  # MCQ: 10 epochs with 4 frames
    batch_size=800,  # MCQ: 20 clips on each of 40 GPUs
    clip=dict(num_frames=4),  # paper
    mask=dict(
      video="block_tube",  # paper: figure; one block, at one position in all frames
      video_ratio=0.4,  # inferred: BEiT's
      text_ratio=0.0,  # paper: figure
    ),
    data=dict(
      name="webvid",  # of the evaluations and the tokenizer; ours
      mixture=(  # paper: both; Frozen: images are clips of one frame, in turns
        dict(name="webvid", split="train", weight=2.5, num_frames=0),
        dict(name="cc3m", split="train", weight=3.0, num_frames=1),
      ),
    ),
    objective=dict(
      name="miles",
      video=dict(
        **common.size("B"),  # code: ViT-B/16
        name="divided",  # divided | vit; paper
        time_pos_embed_resize="linear",  # or zeros; paper: 16 frames at test, as cited
      ),
      text=common.size("B") | dict(depth=6),  # code: DistilBERT
      masked_tokens="mask_token",  # or drop; paper: figure
    ),
    loss_weights=dict(vtc=1.0, features=1.0),  # ours
    optim=dict(
      lr=3e-5,  # MCQ
      schedule="constant",  # ours: MCQ divides by 10 at epochs 6 and 8
      warmup_steps=0,  # MCQ
      weight_decay=0.0,  # MCQ
      decay_rules=((".*", 0.0),),  # MCQ
    ),
    evals=dict(validation=common.retrieval("validation", every=5000)),  # ours
  )


def demo() -> dict:
  """Embedded clips on a laptop; every value that differs from the recipe is ours."""
  c = webvid2m_cc3m()
  c |= dict(steps=1150, batch_size=128, eval_batch_size=100, log_every=20)
  c |= dict(checkpoint_every=300, checkpoint_keep=2)
  # A block of 40 % often masks an entire shape, and all that it does.
  c["mask"] |= dict(video_ratio=0.1)
  for section, values in common.SHAPES.items():
    c[section] = c.get(section, {}) | values
  # Colours and shapes are learnt first, and for less from half of the frames.
  c["data"] |= dict(curriculum=((0, (4,)), (300, (8,))))
  c["objective"] |= common.DUAL
  c["objective"]["video"] = common.DUAL["video"] | dict(time_pos_embed_resize="linear")
  c["optim"] |= common.FROM_SCRATCH
  c["evals"] = dict(
    validation=common.retrieval("validation", every=500),
    test=common.retrieval("test", dual_softmax=0.05),
    novel=common.retrieval("novel"),
    motion=common.motion_recognition("test", single=True),
    labels=common.motion_recognition("test", single=False),
  )
  return c
