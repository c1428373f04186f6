"""SimVTP: masked autoencoding of video tubes and tokens, contrast, matching.

  python -m vtr_jax.main --config=configs/simvtp.py            the demo, minutes on CPU
  python -m vtr_jax.main --config=configs/simvtp.py:smoke      seconds, for tests
  python -m vtr_jax.main --config=configs/simvtp.py:webvid2m   the paper's recipe

Sources: "paper" is arXiv 2212.03490, "code" the authors' scripts/pretrain_webvid.sh
and what it calls, "ours" was chosen here.
"""

from ml_collections import ConfigDict

from vtr_jax.configs import common


def get_config(variant: str = "demo") -> ConfigDict:
  variant = common.variant(variant, ("demo", "smoke", "webvid2m"))
  c = common.editable(webvid2m() if variant == "webvid2m" else demo())
  if variant == "smoke":
    common.shrink(c)
    c.objective.encoder.update(common.size("mu"))
    c.objective.decoder.update(common.size("mu"))
    for key in ("joint_one_in", "one_pass"):
      del c.objective[key]  # the defaults fit any batch and mesh
  c.name = f"simvtp-{variant}"
  return common.complete(c)


def webvid2m() -> dict:
  """The paper's pre-training: 2.5 M pairs, 200 epochs on 64 V100.

  The paper starts from VideoMAE's weights (Kinetics-400) and BERT's word embeddings:
  --config.init_from=videomae:FILE,bert_words:FILE --config.tokenizer=vocab.txt
  --config.text.mask_id=103
  """
  steps_per_epoch = 2_500_000 // 1024
  return dict(
    steps=200 * steps_per_epoch,  # paper: 200 epochs of WebVid-2M
    batch_size=1024,  # code: 16 clips on each of 64 GPUs
    clip=dict(
      num_frames=16,  # code
      tubelet_size=(2, 16, 16),  # frames, pixels, pixels; code
    ),
    mask=dict(
      video="tube",  # paper
      video_ratio=0.9,  # paper
      text_ratio=0.75,  # paper
      text_max=32,  # of 64, only long captions reach it; ours (code: any number)
    ),
    data=dict(
      name="webvid",  # prepared data set under dir
      sampling="contiguous",  # code
      stride=4,  # frames; code
      crop="multi_scale",  # code
      crop_scales=(1.0, 0.875, 0.75, 0.66),  # of the short side; code
      flip=False,  # code
    ),
    objective=dict(
      name="simvtp",
      encoder=common.size("B"),  # paper
      decoder=dict(width=384, depth=4, mlp_dim=1536, num_heads=6),  # code
      text_dropout=0.1,  # code
      negatives_group=16,  # code: false pairs are of one GPU; nothing is communicated
      contrast_text="masked",  # masked | whole; code
      pixel_target="standardized",  # standardized | raw; code
      pos_embed="flat",  # flat | space_time; code
    ),
    loss_weights=dict(vtc=1.0, pixels=1.0, mlm=1.0, vtm=1.0),  # code
    optim=dict(
      lr=6e-4,  # code: 1.5e-4 x 1024 / 256
      min_lr=4e-5,  # code: 1e-5 x 4
      warmup_steps=40 * steps_per_epoch,  # code: 40 epochs
      b2=0.95,  # code
      eps=1e-8,  # code
      weight_decay=0.05,  # code
      decay_rules=(  # code: none on what has one dimension
        (r"(kernel|words|positions)$", 1.0),
        (".*", 0.0),
      ),
    ),
    evals=dict(
      validation=common.retrieval("validation", every=5000),  # ours
      reconstruction=dict(kind="reconstruction", split="validation"),  # ours
    ),
  )


def demo() -> dict:
  """Embedded clips on a laptop; every value that differs from the paper is ours."""
  c = webvid2m()
  c |= dict(steps=740, batch_size=128, eval_batch_size=100, log_every=20)
  c |= dict(checkpoint_every=185, checkpoint_keep=2)
  c["clip"] |= dict(num_frames=8, image_size=64)
  # One caption in 120 is longer and loses its last words.
  c["text"] = dict(max_length=16, vocab_size=256)
  # A short run learns faster from milder masks and a small, wide model.
  c["mask"] |= dict(video="random", video_ratio=0.5, text_ratio=0.3)
  del c["mask"]["text_max"]  # any number
  # 24-frame clips, all of which matter; cropping would cut off the shapes.
  c["data"] |= dict(name="moving_shapes/full", sampling="segments", stride=3)
  c["data"] |= dict(crop="resize", crop_scales=(), num_workers=1)
  del c["objective"]["negatives_group"]  # the whole batch
  c["objective"] |= dict(
    encoder=common.size("demo"),
    decoder=dict(width=96, depth=1, mlp_dim=384, num_heads=3),
    text_dropout=0.0,
    # The contrast sees more clips in a minute; separate passes are faster on a CPU.
    joint_one_in=4,
    one_pass=False,
    contrast_text="whole",
    pixel_target="raw",
    pos_embed="space_time",
  )
  c["optim"] |= common.FROM_SCRATCH
  c["evals"] = dict(
    validation=common.retrieval("validation", every=185),
    test=common.retrieval("test", dual_softmax=0.05, rerank=5),
    novel=common.retrieval("novel"),
    motion=common.motion_recognition("test", single=True),
    labels=common.motion_recognition("test", single=False),
    reconstruction=dict(kind="reconstruction", split="test", batches=2, every=185),
    # What the model sees, of all of the split; 7 s of CPU time; ours.
    pictures=dict(kind="pictures", split="test[:30%]"),
  )
  return c
