"""Evaluation protocols as data: what a benchmark's metrics mean.

A protocol fixes the split, which captions are queries, how clips are sampled and
pooled, and the tie rule; fields at their default follow this project's rule or the
trained model. In both directions a video's best-ranked caption counts.
`get(name, {field: value})` changes fields by name; changes, and counts that differ from
`clips` and `queries`, are reported with the metrics.
"""

import ast
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from vtr_jax.core import config
from vtr_jax.core.config import choose, require
from vtr_jax.core.errors import ConfigError
from vtr_jax.eval import metrics

CAPTIONS = ("all", "first", "joined")
# Fields that determine how clips and texts are embedded; precomputed embeddings cannot
# change them.
EMBEDDING_FIELDS = (
  "frames",
  "sampling",
  "windows",
  "crops",
  "average",
  "classes",
  "prompts",
)
TASKS = ("retrieval", "recognition", "choice", "actions")
# Fields that mean something to task "actions", which reads labels alone.
ACTION_FIELDS = ("task", "split", "clips", "frames", "sampling", "windows", "crops")


def check_classes(classes: Mapping[str, Sequence[str]], prompts: Sequence[str]) -> None:
  """Rejects classes and prompts that yield no texts; for `__post_init__`."""
  require(len(prompts) > 0, 'prompts: none; use "{}" for the phrases themselves')
  for prompt in prompts:
    require(prompt.count("{}") == 1, f'prompts: {prompt!r} needs one "{{}}"')
  for label, phrases in classes.items():
    valid = len(phrases) > 0 and all(phrase.strip() for phrase in phrases)
    require(valid, f"classes.{label}: {phrases}; give phrases that are not empty")


@dataclasses.dataclass(frozen=True)
class Protocol:
  """The rules of an evaluation; each default has its source."""

  # retrieval | recognition (zero-shot, by texts of the classes) | choice (the correct
  # one of a clip's candidate sentences) | actions (recognition by a fine-tuned head).
  task: str = "retrieval"
  split: str = "test"  # of the prepared data
  clips: int = 0  # in the split; 0 = any number
  queries: int = 0  # texts, after `captions`; 0 = any number
  # Queries: all captions, the first of each clip, or a clip's captions joined to one
  # paragraph. All: MSVD's rule since Frozen (frozen#48, #53).
  captions: str = "all"
  frames: int = 0  # per clip; 0 = as the model was trained
  sampling: str = ""  # segments | contiguous; "" = the model's; see data/video
  # Temporal clips per video, and spatial crops per clip: one centred, or several evenly
  # spaced along the long side. One of each: Frozen, CLIP4Clip. SimVTP and VideoMAE
  # have more.
  windows: int = 1
  crops: int = 1
  # Whether the clips' embeddings are averaged before or after normalisation. Before:
  # SimVTP's test and Frozen's sliding window.
  average: str = "before"
  # average (ours) | optimistic | pessimistic; see metrics.py
  ties: metrics.Ties = "average"
  # Contiguous folds of the clips, evaluated separately; metrics are means. 1: all
  # papers here but COCO 1k.
  folds: int = 1
  # For recognition: see evaluators/zero_shot.py. {} = the split's labels as phrases:
  # "ApplyEyeMakeup" and "apply_eye_makeup" become "apply eye makeup".
  classes: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
  # MILES's prompt is not public; TVTS-v2, of the same group, has "a person {}".
  prompts: tuple[str, ...] = ("a person {}",)
  temperature: float = 0.0  # 0 = the mean of a class's texts (CLIP)

  def __post_init__(self):
    choose(self.task, TASKS, "task")
    choose(self.captions, CAPTIONS, "captions")
    choose(self.average, ("before", "after"), "average")
    choose(self.sampling, ("", "segments", "contiguous"), "sampling")
    for name in ("windows", "crops", "folds"):
      require(getattr(self, name) >= 1, f"{name}: {getattr(self, name)} is below 1")
    for name in ("frames", "clips", "queries", "temperature"):
      require(getattr(self, name) >= 0, f"{name}: {getattr(self, name)} is negative")
    check_classes(self.classes, self.prompts)


TABLE = dict(
  # 1k-A of JSFusion (Yu et al., ECCV 2018): one fixed caption per clip
  # (MSRVTT_JSFUSION_test.csv has 1,000 rows). Frozen, MCQ, MILES, MAC, CLIP4Clip.
  msrvtt_1ka=Protocol(clips=1000, queries=1000),
  # The official test split (Xu et al., CVPR 2016), 20 captions each, all queries.
  msrvtt_full=Protocol(clips=2990, queries=59_800),
  # 670 test videos, every caption a query (MILES section 4; frozen#48): 27,763 by
  # X-Pool's captions_msvd.json and the standard test_list.txt.
  msvd=Protocol(clips=670, queries=27_763),
  # LSMDC16 public test, 1,000 clips of one caption (MILES; CLIP4Clip's
  # LSMDC16_challenge_1000_publictect.csv).
  lsmdc=Protocol(clips=1000, queries=1000),
  # Paragraph to video: a video's sentences joined (Zhang et al., ECCV 2018; Frozen,
  # CLIP4Clip). 1,004 videos: test_list.txt of Collaborative Experts.
  didemo=Protocol(clips=1004, queries=1004, captions="joined"),
  # Paragraph to video; the test is val_1 (CLIP4Clip, Collaborative Experts): 4,917.
  activitynet=Protocol(clips=4917, queries=4917, captions="joined"),
  # Karpathy and Fei-Fei (CVPR 2015): 1,000 test images of 5 captions.
  flickr30k_1k=Protocol(clips=1000, queries=5000),
  # 5,000 test images with all of their 25,010 captions (ALBEF, BLIP); code that keeps
  # five per image has 25,000.
  coco_5k=Protocol(clips=5000, queries=25_010),
  # Mean over five folds of 1,000 images (Karpathy and Fei-Fei; VSE++).
  coco_1k=Protocol(clips=5000, queries=25_010, folds=5),
  # Official split (Hodosh et al., JAIR 2013): 1,000 test images of 5 captions.
  flickr8k_1k=Protocol(clips=1000, queries=5000),
  # Zero-shot on test split 1, 30 clips of each of 51 classes. MILES tested its
  # 4-frame model with 16 (according to third-party code); shorter models cannot.
  hmdb51=Protocol(task="recognition", clips=1530, frames=16),
  # testlist01, 101 classes; as HMDB51.
  ucf101=Protocol(task="recognition", clips=3783, frames=16),
  # The validation split; copies differ in their videos, so no count.
  kinetics400=Protocol(task="recognition", split="validation"),
  # Multiple choice (Yu et al., ECCV 2018): 5 candidate sentences, 2,990 clips.
  msrvtt_mc=Protocol(task="choice", clips=2990, queries=5 * 2990),
  # After fine-tuning, by VideoMAE's test: temporal segments x crops, the mean of each
  # view's softmax (arXiv 2203.12602; test_num_segment and test_num_crop in scripts/,
  # merge in engine_for_finetuning.py). Test lists 1; HMDB51, which it does not have, is
  # as UCF101.
  ucf101_ft=Protocol(task="actions", clips=3783, windows=5, crops=3),
  hmdb51_ft=Protocol(task="actions", clips=1530, windows=5, crops=3),
  # Copies differ in their videos, so no count.
  kinetics400_ft=Protocol(task="actions", split="validation", windows=5, crops=3),
  # 24,777 clips: the publisher's validation list of v2.
  ssv2_ft=Protocol(
    task="actions", split="validation", clips=24_777, windows=2, crops=3
  ),
  custom=Protocol(),
)


def get(name: str, changes: Mapping[str, Any] | None = None) -> Protocol:
  """The named protocol, with `changes` to its fields.

  Raises:
    ConfigError: no such protocol or field (suggests the nearest name), or an invalid
      value.
  """
  require(bool(name), f"--protocol: missing; one of {', '.join(TABLE)}")
  choose(name, TABLE, "--protocol")
  values = {f.name: getattr(TABLE[name], f.name) for f in dataclasses.fields(Protocol)}
  protocol = config.read(Protocol, values | dict(changes or {}), f"protocol {name}")
  for field in changes or ():
    require(
      protocol.task != "actions" or field in ACTION_FIELDS,
      f"protocol {name}.{field}: means nothing to task 'actions'; omit it",
    )
  return protocol


def parse(assignments: Iterable[str]) -> dict[str, Any]:
  """Parses command-line assignments such as ["captions=first", "windows=3"].

  Raises:
    ConfigError: an assignment has no "=".
  """
  changes = {}
  for text in assignments:
    key, sign, value = text.partition("=")
    if not sign:
      raise ConfigError(f"--set: {text!r} is not field=value; try captions=first")
    try:
      changes[key.strip()] = ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):  # an unquoted string
      changes[key.strip()] = value.strip()
  return changes


def class_texts(
  classes: Mapping[str, Sequence[str]], prompts: Sequence[str]
) -> tuple[list[str], Int[np.ndarray, " t"]]:
  """Every phrase of every class in every prompt, and the class index of each."""
  texts, owner = [], []
  for index, phrases in enumerate(classes.values()):
    texts += [prompt.replace("{}", phrase) for phrase in phrases for prompt in prompts]
    owner += [index] * len(phrases) * len(prompts)
  return texts, np.array(owner, np.int64)


def select(
  texts: Sequence[str], owner: Int[np.ndarray, " t"], captions: str
) -> tuple[list[str], Int[np.ndarray, " q"]]:
  """The queries among a split's captions by the rule `captions`, and their owners."""
  if captions == "all":
    return list(texts), owner
  order = np.argsort(owner, kind="stable")
  owners, starts = np.unique(owner[order], return_index=True)
  groups: list[list[int]] = [g.tolist() for g in np.split(order, starts[1:])]
  if captions == "first":
    return [texts[group[0]] for group in groups], owners
  return [" ".join(texts[i].strip() for i in group) for group in groups], owners


def differences(protocol: Protocol, clips: int, queries: int) -> list[str]:
  """Counts that differ from the protocol's; metrics are then not comparable."""
  pairs = dict(clips=(clips, protocol.clips), queries=(queries, protocol.queries))
  return [
    f"{actual:,} {name}, not {expected:,}"
    for name, (actual, expected) in pairs.items()
    if expected and actual != expected
  ]


def label_phrase(label: str) -> str:
  """A class label as a phrase: "ApplyEyeMakeup" to "apply eye makeup"."""
  spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", label)
  return " ".join(spaced.replace("_", " ").lower().split())
