"""Pieces that the config files share."""

from ml_collections import ConfigDict

# width, depth, MLP width, heads. Ti, S, B, L: ViT (arXiv 2010.11929, table 1) and
# DeiT (arXiv 2012.12877, table 1); mu: for tests, as in big_vision; demo: ours.
SIZES = dict(
  mu=(32, 1, 128, 2),
  demo=(192, 2, 384, 3),
  Ti=(192, 12, 768, 3),
  S=(384, 12, 1536, 6),
  B=(768, 12, 3072, 12),
  L=(1024, 24, 4096, 16),
)

IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def size(name: str) -> dict:
  """A transformer's size by name."""
  return dict(zip(("width", "depth", "mlp_dim", "num_heads"), SIZES[name], strict=True))


def variant(name: str, known: tuple[str, ...]) -> str:
  """Refuses a variant that the config file does not have."""
  if name not in known:
    raise ValueError(f"variant {name!r} is unknown; known: {', '.join(known)}")
  return name


def retrieval(split: str, **changes) -> dict:
  """A retrieval evaluation of `split`."""
  section = dict(
    kind="retrieval",
    split=split,
    every=0,  # steps; 0 = at the end only
    captions="all",  # ours: every caption is a query
    ties="average",  # ours; "optimistic" is the papers' code
    dual_softmax=0.0,  # temperature of an extra row; 0 = none
    rerank=0,  # candidates the matching head re-orders; 0 = none
  )
  return section | changes


def shrink(c: ConfigDict) -> None:
  """A demo at the smallest sizes that still use every part; towers are its own."""
  c.steps, c.batch_size, c.eval_batch_size, c.log_every = 6, 16, 16, 2
  c.checkpoint_every = 2
  c.clip.update(frames=4, size=32)
  c.data.name = "moving_shapes/tiny"
  c.data.workers = 0
  c.optim.warmup_steps = 2
  c.evals.validation.every = 3
