"""Pieces that the config files share."""

import itertools

from ml_collections import ConfigDict

from vtr_jax.data import shapes
from vtr_jax.data.shapes_captions import CROSSINGS, PHRASES, inflect

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


def motion_recognition(split: str, **changes) -> dict:
  """Which of the 18 labels a clip of `moving_shapes` has, told as its captions do."""
  colours, kinds = tuple(shapes.COLOURS), shapes.SHAPES
  # Each colour and each shape twice; every pair occurs in train.
  pairs = zip(colours * 2, kinds + kinds[4:] + kinds[:4], strict=True)
  firsts = [f"{'an' if c[0] == 'o' else 'a'} {c} {kind}" for c, kind in pairs]
  others = ("a blue square", "a green star", "a red heart", "a white bar")
  section = dict(
    kind="zero_shot",
    split=split,
    every=0,  # steps; 0 = at the end only
    classes=_motions(others),  # ours
    prompts=tuple(f"{thing} {{}}" for thing in firsts),  # ours
    temperature=0.05,  # that of training; ours: 0 is the papers' mean of all texts
  )
  return section | changes


def _motions(others: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
  """What follows "a red circle" in captions of each label; `others` by turns."""
  told, turn = {label: [] for label in shapes.LABELS}, itertools.cycle(others)
  bar, star = shapes.Thing("red", "bar"), shapes.Thing("blue", "star")

  def say(kind: str, actions: tuple[str, ...], *phrases: str) -> None:
    things = (bar,) if kind == "steps" else (bar, star)
    meaning = shapes.Meaning(kind, things, actions)
    if shapes.is_valid(meaning):
      told[shapes.label_of(meaning)] += phrases

  for a, b in itertools.product(shapes.ACTIONS, repeat=2):
    (_, a1, a2), (_, b1, _) = (
      [inflect(PHRASES[action][0], form) for form in range(3)] for action in (a, b)
    )
    other = next(turn)
    say("steps", (a, b), f"{a1}, then {b1}", f"{b1} after {a2}")
    say("while", (a, b), f"{a1} while {other} {b1}")
    say("turns", (a, b), f"{a1}, then {other} {b1}")
  for action in shapes.ACTIONS:
    phrases = PHRASES[action][:3]
    say("steps", (action,), *(inflect(phrase, 1) for phrase in phrases))
    say("same", (action,), *(f"and {other} both {phrases[0]}" for other in others))
  say("cross", (), *(f"and {o} {c}" for o in others for c in CROSSINGS))
  return {label: tuple(phrases) for label, phrases in told.items()}
