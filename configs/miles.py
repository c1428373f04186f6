"""MILES: a dual encoder that also predicts its own snapshot's features.

  python -m vtr_jax.main --config=configs/miles.py                 the demo, on CPU
  python -m vtr_jax.main --config=configs/miles.py:smoke           seconds, for tests
  python -m vtr_jax.main --config=configs/miles.py:webvid2m_cc3m   the paper's recipe

Sources: "paper" is arXiv 2204.12408 (text or figures), "code" the authors' evaluation
code, "MCQ" their sibling work's training code (arXiv 2201.04850), "weak" a value that
is backed by nothing found, "Frozen" the code that all of it builds on, "ours" was
chosen here: no training code of MILES is public.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "demo") -> ConfigDict:
  variant = common.variant(variant, ("demo", "smoke", "webvid2m_cc3m"))
  c = common.editable(webvid2m_cc3m() if variant == "webvid2m_cc3m" else demo())
  if variant == "smoke":
    common.shrink(c)
    c.objective.video.update(common.size("mu"))
    c.objective.text.update(common.size("mu"))
  c.name = f"miles-{variant}"
  return c


def webvid2m_cc3m() -> dict:
  """Pre-training on 5.5 M pairs, ViT-B/16 and DistilBERT; MCQ's second stage."""
  return dict(
    name="",
    seed=0,  # of everything random; ours
    init_from="",  # run to start from, or public weights KIND:FILE,... ; ours
    init_allow=(),  # patterns of their keys, and of our paths, that may lack; ours
    steps=10 * (5_500_000 // 800),  # MCQ: 10 epochs with 4 frames
    batch_size=800,  # MCQ: 20 clips on each of 40 GPUs
    eval_batch_size=256,  # ours
    log_every=50,  # steps; ours
    checkpoint_every=2000,  # steps; ours
    checkpoint_keep=3,  # ours
    clip=dict(
      num_frames=4,  # paper
      image_size=224,  # pixels; code
      tubelet_size=(1, 16, 16),  # frames, pixels, pixels; code: patches of each frame
      **common.IMAGENET,  # code
    ),
    text=dict(
      max_length=64,  # tokens; ours: the code pads to the longest, at most 512
      vocab_size=30522,  # code: distilbert-base-uncased
      mask_id=3,  # of the tokenizer that `prepare` trains; BERT's is 103; ours
    ),
    tokenizer="",  # vocabulary file; "" = init_from's, or the data set's; ours
    mask=dict(
      video="block_tube",  # paper: figure; one block, at one position in all frames
      video_ratio=0.4,  # weak: BEiT's
      text="replace",  # ours: nothing is masked
      text_ratio=0.0,  # paper: figure
      whole_word=False,  # ours: nothing is masked
    ),
    data=dict(
      name="webvid",  # of the evaluations and the tokenizer; ours
      dir="data",  # of all prepared data sets; ours
      split="train",  # ours
      sampling="segments",  # Frozen
      stride=1,  # frames; ours: segments do not read it
      curriculum=(),  # ours: the whole run as MCQ's second stage, after one of 1 frame
      mixture=(  # paper: both; Frozen: images are clips of one frame, in turns
        dict(name="webvid", split="train", weight=2.5, num_frames=0),
        dict(name="cc3m", split="train", weight=3.0, num_frames=1),
      ),
      decode_timeout=30.0,  # seconds of CPU time for one record; ours
      crop="random_resized",  # MCQ
      crop_scales=(0.5, 1.0),  # of the area; MCQ
      flip=True,  # MCQ
      num_workers=8,  # processes; ours
      max_bad_fraction=0.01,  # of samples; ours
    ),
    objective=dict(
      name="miles",
      arch="frozen",  # or clip | open_clip | siglip | simvtp; MCQ
      video=common.size("B"),  # code: ViT-B/16
      text=common.size("B") | dict(depth=6),  # code: DistilBERT
      compute=dict(
        dtype="bfloat16",  # of activations; ours
        attention="xla",  # xla | cudnn; ours
        scan=True,  # ours: compiles one block instead of twelve
        remat="none",  # none | dots | full | offload; ours
      ),
      projection=256,  # code
      attention="divided",  # divided | joint; paper
      time_init="output",  # ours; "frozen" never learns what to attend to in time
      pos_embed="frozen",  # frozen | space_time: first values; code
      masked_tokens="mask_token",  # or drop; paper: figure
      time_pos_embed_resize="linear",  # or zeros; paper: 16 frames at test, as cited
      pool="cls",  # cls | mean; code
      text_norm="post",  # post | pre; code: DistilBERT's
      text_dropout=0.1,  # code: DistilBERT's
      temperature=0.05,  # MCQ
      learn_temperature=False,  # MCQ
      teacher=dict(  # the snapshot
        update="ema",  # ema | copy; ours: the paper only states that it is updated
        decay=0.996,  # ours: BYOL's
        final_decay=1.0,  # ours: BYOL's
        update_every=1000,  # steps between copies; ours: ema does not read it
      ),
      distance="cosine",  # cosine | mse; ours
    ),
    loss_weights=dict(vtc=1.0, features=1.0),  # ours
    contrastive=dict(
      loss="info_nce",  # info_nce | sigmoid; paper
      form="dense",  # dense | chunked | ring: same value, less memory; ours
      chunk=1024,  # rows of similarities at once; not read by dense; ours
      bias=-10.0,  # of the sigmoid loss alone; first value in SigLIP's paper
    ),
    micro_batches=1,  # parts that a step's batch is embedded in; ours: 1
    optim=dict(
      lr=3e-5,  # MCQ
      min_lr=0.0,  # ours: a constant schedule does not read it
      schedule="constant",  # ours: MCQ divides by 10 at epochs 6 and 8
      warmup_steps=0,  # MCQ
      b1=0.9,  # MCQ
      b2=0.999,  # MCQ
      eps=1e-6,  # MCQ
      weight_decay=0.0,  # MCQ
      decay_rules=((".*", 0.0),),  # MCQ
      lr_rules=((".*", 1.0),),
      clip_norm=0.0,  # MCQ: off
      muon="",  # paths of kernels that Muon updates; MCQ: none
      moments="float32",  # bfloat16 halves them; MCQ: float32
      layer_decay=1.0,  # learning rate of a layer by the next; ours: off (MAE: 0.75)
      ema_decay=0.0,  # of all parameters, for evaluation; ours: off
    ),
    guard=common.GUARD,
    mesh=dict(data=-1, fsdp=1, tensor=1),  # devices along each axis; -1 = the rest
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
    c[section] |= values
  # Colours and shapes are learnt first, and for less from half of the frames.
  c["data"] |= dict(curriculum=((0, (4,)), (300, (8,))))
  c["objective"] |= common.DUAL | dict(attention="joint")
  c["optim"] |= common.FROM_SCRATCH
  c["evals"] = dict(
    validation=common.retrieval("validation", every=500),
    test=common.retrieval("test", dual_softmax=0.05),
    novel=common.retrieval("novel"),
    motion=common.motion_recognition("test", single=True),
    labels=common.motion_recognition("test", single=False),
  )
  return c
