"""Pieces that the config files share.

A file lists what it sets; the other keys have the defaults of the dataclasses that read
them, where comments name their sources as well.
"""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from vtr_jax.data.moving_shapes import scene
from vtr_jax.data.moving_shapes.captions import CROSSINGS, PHRASES, inflect
from vtr_jax.train.config import with_defaults

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

# CLIP's text tower for B/32 and B/16, and its normalisation of colours.
CLIP_TEXT = dict(width=512, depth=12, mlp_dim=2048, num_heads=8)
CLIP_COLOURS = dict(
  mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
)


def editable(values: dict) -> Any:
  """A ConfigDict; typed Any, because its attributes are the config's keys."""
  return ConfigDict(values)


def complete(c: Any) -> Any:
  """What a config file returns: `c`, and the defaults of keys that it leaves out."""
  return ConfigDict(with_defaults(c.to_dict()))


def size(name: str) -> dict:
  """A transformer's size by name."""
  return dict(zip(("width", "depth", "mlp_dim", "num_heads"), SIZES[name], strict=True))


def variant(name: str, known: tuple[str, ...]) -> str:
  """Rejects a variant that the config file does not have."""
  if name not in known:
    raise ValueError(f"variant {name!r} is unknown; known: {', '.join(known)}")
  return name


# The papers' recipes, whose runs are fine-tuned unless another variant is given.
PRE_TRAINING = dict(mac="webvid2m_cc3m", miles="webvid2m_cc3m", simvtp="webvid2m")


def fine_tuning(
  text: str, datasets: Iterable[str], files: Mapping[str, str] = PRE_TRAINING
) -> tuple[str, str, str]:
  """(data set, config file, variant of that) of "DATA[,FILE[,VARIANT]]".

  The file is mac, its variant that of `files`, unless they are given.
  """
  name, file, pretrained, *more = (*text.split(","), "", "", "")
  variant(name, tuple(datasets))
  if any(more):
    raise ValueError(f"variant {text!r}: give data set, config file and variant")
  file = variant(file or "mac", tuple(files))
  return name, file, pretrained or files[file]


# Of runs on `moving_shapes` at a laptop's size; all of it ours.
SHAPES = dict(
  clip=dict(num_frames=8, image_size=64, tubelet_size=(2, 16, 16)),
  # One caption in 120 is longer and loses its last words.
  text=dict(max_length=16, vocab_size=256),
  # 24-frame clips, all of which matter; crops and mirrors would change the story.
  data=dict(
    name="moving_shapes/full",
    mixture=(),
    crop="resize",
    crop_scales=(),
    flip=False,
    num_workers=1,
  ),
)
# The same of `moving_scenes`: 576 tubelets a clip, things of many tubelets.
SCENES = dict(
  clip=dict(num_frames=8, image_size=96, tubelet_size=(2, 8, 8)),  # ours
  text=dict(max_length=40, vocab_size=256),  # ours: the longest caption
  data=SHAPES["data"] | dict(name="moving_scenes/full"),  # ours
)
# A dual encoder from scratch: small, wide towers with positions from the start.
DUAL: dict[str, Any] = dict(
  video=size("demo") | dict(name="vit", pos_embed="space_time"),
  text=size("demo"),
  pool="mean",
  text_norm="pre",
  text_dropout=0.0,
)
# A high peak learning rate, with warm-up and cosine decay. Muon learns as much as AdamW
# in a quarter of the steps (docs/performance.md).
FROM_SCRATCH = dict(
  lr=1.4e-3,
  min_lr=1e-5,
  schedule="cosine",
  warmup_steps=30,
  b2=0.95,
  eps=1e-8,
  weight_decay=0.05,
  decay_rules=((r"(kernel|words|positions)$", 1.0), (".*", 0.0)),
  clip_norm=1.0,
  muon=r"block.*kernel$",
)


def retrieval(split: str, **changes) -> dict:
  """A retrieval evaluation of `split`."""
  return dict(kind="retrieval", split=split) | changes


def shrink(c: Any) -> None:
  """Reduces a demo config to the smallest sizes that use every part.

  Callers set the towers.
  """
  c.steps, c.batch_size, c.eval_batch_size, c.log_every = 6, 16, 16, 2
  c.checkpoint_every = 2
  c.clip.update(num_frames=4, image_size=32)
  c.data.curriculum = ()
  c.data.name = "moving_shapes/tiny"
  c.data.num_workers = 0
  # Metrics that other layouts reproduce.
  c.objective.compute = dict(c.objective.get("compute", {}), dtype="float32")
  c.optim.warmup_steps = 2
  c.evals.validation.every = 3
  for name in {"motion", "labels"} & set(c.evals):
    c.evals[name].prompts = ("a red bar {}",)


def motion_recognition(split: str, single: bool, **changes) -> dict:
  """Which label a clip of `moving_shapes` has, in the words of its captions.

  All 18 labels; or, of clips in which one thing does one thing, its 10 actions.
  """
  colours, kinds = tuple(scene.COLOURS), scene.SHAPES
  name = lambda colour, kind: f"{'an' if colour[0] == 'o' else 'a'} {colour} {kind}"
  # All that train shows may be the first; of others, each colour and each shape once.
  things = set(itertools.product(colours, kinds)) - scene.NOVEL_THINGS
  firsts = [name(*thing) for thing in sorted(things)]
  others = tuple(name(*pair) for pair in zip(colours, kinds, strict=True))
  alone = {a if a in scene.CHANGES else f"move {a}" for a in scene.ACTIONS}
  classes = {k: v for k, v in _motions(others).items() if not single or k in alone}
  section = dict(
    kind="zero_shot",
    split=split,
    classes=classes,  # ours
    prompts=tuple(f"{thing} {{}}" for thing in firsts),  # ours
  )
  return section | (dict(others="skip") if single else {}) | changes


def _motions(others: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
  """What follows "a red circle" in captions of each label; `others` by turns."""
  phrases_of, turn = {label: [] for label in scene.LABELS}, itertools.cycle(others)
  bar, star = scene.Thing("red", "bar"), scene.Thing("blue", "star")

  def say(kind: str, actions: tuple[str, ...], *phrases: str) -> None:
    things = (bar,) if kind == "steps" else (bar, star)
    meaning = scene.Meaning(kind, things, actions)
    if scene.is_valid(meaning):
      phrases_of[scene.label_of(meaning)] += phrases

  for a, b in itertools.product(scene.ACTIONS, repeat=2):
    (_, a1, a2), (_, b1, _) = (
      [inflect(PHRASES[action][0], form) for form in range(3)] for action in (a, b)
    )
    other = next(turn)
    say("steps", (a, b), f"{a1}, then {b1}", f"{b1} after {a2}")
    say("while", (a, b), f"{a1} while {other} {b1}")
    say("turns", (a, b), f"{a1}, then {other} {b1}")
  for action in scene.ACTIONS:
    phrases = PHRASES[action][:3]
    say("steps", (action,), *(inflect(phrase, 1) for phrase in phrases))
    say("same", (action,), *(f"and {other} both {phrases[0]}" for other in others))
  say("cross", (), *(f"and {o} {c}" for o in others for c in CROSSINGS))
  return {label: tuple(phrases) for label, phrases in phrases_of.items()}
