"""CLIP4Clip's mean pooling: frames encoded independently by CLIP, then averaged.

  python -m vtr_jax.main --config=configs/clip4clip.py:msrvtt \
    --config.init_from=clip:ViT-B-32.pt --config.tokenizer=bpe_simple_vocab_16e6.txt.gz

After the colon comes the data set, as in configs/finetune_retrieval.py. Sources: "code"
is the authors' main_task_retrieval.py and README (arXiv 2104.08860), "ours" was chosen
here.
"""

from typing import Any

from ml_collections import ConfigDict

from vtr_jax.configs import common, mac
from vtr_jax.configs.finetune_retrieval import DATASETS

# Long captions and videos: words and frames; code.
_LONG = ("didemo", "activitynet")
# Captions of the training split: the code's epoch is one of sentences, not of videos.
# From the data sets' papers; with one caption per clip, both counts are equal.
_SENTENCES = dict(
  msrvtt=180_000,
  msvd=48_774,
  flickr8k=30_000,
  flickr30k=145_000,
  coco_karpathy=566_747,
)


def get_config(variant: str = "msrvtt") -> ConfigDict:
  data = DATASETS[common.variant(variant, tuple(DATASETS))]
  c: Any = mac.get_config("clip")
  c.name = f"clip4clip-{variant}"
  c.batch_size = 128  # code
  sentences = _SENTENCES.get(variant, data["clips"])
  c.steps = 5 * max(sentences // c.batch_size, 1)  # code: 5 epochs
  c.checkpoint_every = max(c.steps // 10, 1)  # ours
  c.clip.tubelet_size = (1, 32, 32)  # code: ViT-B/32
  long = variant in _LONG
  # Code: frames at 1 per second; ours: the same number, evenly spaced.
  c.clip.num_frames = 1 if data["frames"] == 1 else 64 if long else 12
  c.text.max_length = 64 if long else 32  # code
  c.mask.update(video_ratio=0.0, text_ratio=0.0)  # code: nothing is masked
  c.data.update(name=variant, sampling="segments", crop="resize", flip=False)  # code
  c.data.update(crop_scales=(), curriculum=(), mixture=())
  c.objective.video.name = "frame"  # code: meanP
  c.optim.update(
    lr=1e-7,  # code: lr 1e-4 with coef_lr 1e-3
    min_lr=0.0,  # code
    schedule="cosine",  # code
    warmup_steps=c.steps // 10,  # code
    b1=0.9,  # code
    b2=0.98,  # code
    eps=1e-6,  # code
    weight_decay=0.2,  # code
    # Code: but for biases; it looks for "LayerNorm", which CLIP's are not called.
    decay_rules=((r"/bias$", 0.0), (".*", 1.0)),
    clip_norm=1.0,  # code
    # Code: embeddings stay as they are (freeze_layer_num 0).
    lr_rules=(
      (r"video_tower/(proj|cls_token|space_positions|norm_input)", 0.0),
      (r"text_tower/embed", 0.0),
      (".*", 1.0),
    ),
  )
  c.evals = dict(test=common.retrieval("test"))
  return common.complete(c)
