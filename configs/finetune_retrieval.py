"""Fine-tuning for retrieval: one data set, nothing masked, from a trained run.

  python -m vtr_jax.main --config=configs/finetune_retrieval.py:msrvtt \
    --config.init_from=runs/mac-webvid2m_cc3m
  python -m vtr_jax.main --config=configs/finetune_retrieval.py:didemo,miles ...
  python -m vtr_jax.main --config=configs/finetune_retrieval.py:msvd,mac,flickr8k ...

After the data set comes the config file of the run that this one starts from ("mac"),
and its variant (the paper's recipe): sizes, tokenizer and loss must be that run's.
Data are what `vtr_jax.prepare` writes under data/<data set>.

Sources: "Frozen" is its MSR-VTT fine-tuning (arXiv 2104.00650 and code), which MCQ and
MILES share, "CLIP4Clip" arXiv 2104.08860 and code, "SimVTP" its scripts, "ours" was
chosen here. How MAC is fine-tuned is not published.
"""

import importlib

from ml_collections import ConfigDict

from vtr_jax.configs import common

# Training clips (images), frames, epochs. frames: Frozen 4; paragraphs describe more
# than 4 frames show (CLIP4Clip: 64 at 1 fps; 8 is ours). epochs: ours (Frozen stops
# early, CLIP4Clip 5). `max_length` is that of the pre-trained run.
DATASETS = dict(
  msrvtt=dict(clips=9000, frames=4, epochs=10),  # 1k-A, 9k
  msvd=dict(clips=1200, frames=4, epochs=20),
  lsmdc=dict(clips=101_079, frames=4, epochs=5),
  didemo=dict(clips=8395, frames=8, epochs=10),
  activitynet=dict(clips=10_009, frames=8, epochs=10),
  youcook2=dict(clips=10_337, frames=4, epochs=10),
  flickr8k=dict(clips=6000, frames=1, epochs=10),
  flickr30k=dict(clips=29_000, frames=1, epochs=10),
  coco_karpathy=dict(clips=113_287, frames=1, epochs=5),
)
_BATCH = 128  # CLIP4Clip (Frozen: 16); more negatives for each pair


def get_config(variant: str = "msrvtt") -> ConfigDict:
  name, file, pretrained = common.fine_tuning(variant, DATASETS)
  c = importlib.import_module(f"vtr_jax.configs.{file}").get_config(pretrained)
  data = DATASETS[name]
  c.name = f"{name}-{c.name}"
  c.steps = data["epochs"] * max(data["clips"] // _BATCH, 1)
  c.batch_size = _BATCH
  c.checkpoint_every = max(c.steps // 10, 1)  # ours
  pt = c.clip.tubelet_size[0]
  c.clip.num_frames = -(-data["frames"] // pt) * pt
  # Nothing is masked: masks are for pre-training.
  c.mask.update(video_ratio=0.0, text_ratio=0.0)
  c.data.update(name=name, crop="random_resized", crop_scales=(0.5, 1.0))  # Frozen
  c.data.update(sampling="segments", flip=True, curriculum=(), mixture=())  # Frozen
  c.loss_weights.update(
    {k: 0.0 for k in c.loss_weights if k != "vtc"}
  )  # all papers: contrast
  c.optim.update(
    lr=3e-5,  # Frozen (SimVTP: 7.5e-5)
    min_lr=0.0,  # ours
    schedule="cosine",  # CLIP4Clip (Frozen: constant)
    warmup_steps=c.steps // 10,  # CLIP4Clip
    clip_norm=1.0,  # CLIP4Clip
  )
  c.evals = dict(test=common.retrieval("test"))  # see `vtr_jax.evaluate` for protocols
  return common.complete(c)
