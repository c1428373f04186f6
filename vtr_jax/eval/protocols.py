"""Evaluation protocols as data: what a benchmark's metrics mean.

A protocol fixes the split, which captions are queries, how clips are sampled and
pooled, and the tie rule; fields at their default follow this project's rule or the
trained model. In both directions a video's best-ranked caption counts.
`get(name, {field: value})` changes fields by name; changes, and counts that differ from
`clips` and `queries`, are reported with the metrics.
"""

import ast
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from vtr_jax.core import config
from vtr_jax.core.config import choose, require
from vtr_jax.core.errors import ConfigError
from vtr_jax.eval import metrics, query_texts

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
TASKS = ("retrieval", "recognition", "choice", "actions", "answers", "moments")
_NOTES = ("task", "split", "clips", "queries", "notes", "notes_variant", "types")
# Fields that mean something to tasks which are not scored by embeddings.
FIELDS = dict(
  actions=("task", "split", "clips", "frames", "sampling", "windows", "crops"),
  answers=(*_NOTES, "form", "vocabulary", "outside", "by", "counts"),
  moments=(
    *(*_NOTES, "thresholds", "strict", "clamp", "nms", "padded", "lengths"),
    *("constant",),
  ),
)


@dataclasses.dataclass(frozen=True)
class Protocol:
  """The rules of an evaluation; each default has its source."""

  # retrieval | recognition (zero-shot, by texts of the classes) | choice (the correct
  # one of a clip's candidate sentences) | actions (recognition by a fine-tuned head) |
  # answers and moments (predictions against questions and moments of data/notes.py).
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
  # For answers and moments: the format that reads them, its variant, and the types of
  # the notes to take; () = all.
  notes: str = ""
  notes_variant: str = ""
  types: tuple[str, ...] = ()
  # Answers: open (any text) | choice (of a question's options) | count (a number).
  form: str = "open"
  # The most frequent answers of training, whose share of the test is the ceiling; 0 =
  # the model's list if it is given, else all of training (HQGA, Just-Ask on MSVD-QA).
  vocabulary: int = 0
  # A question whose answer is not in the vocabulary is wrong and counts (ours; HQGA,
  # Just-Ask, UMT), or is dropped (VIOLET).
  outside: str = "wrong"
  by: str = "type"  # groups of the report: type (the notes') | first_word
  # Predicted counts are rounded and cut to these. TGIF-QA's are 0 to 10; ClipBERT and
  # ALPRO predict 1 to 10.
  counts: tuple[int, int] = (0, 10)
  # Moments: IoUs of R@n. All but TACoS, and QVHighlights, have these.
  thresholds: tuple[float, ...] = (0.3, 0.5, 0.7)
  strict: bool = False  # IoU above the threshold (2D-TAN), not at least it (TALL)
  clamp: bool = False  # true windows are cut to their videos' ends, as in lighthouse
  nms: float = 0.0  # IoU above which a later window is left out of R@5; 0 = none
  # Seconds to which predicted windows may reach in shorter videos, too.
  padded: float = 0.0
  # Names, and the lengths in seconds that true windows are above and at most.
  lengths: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
  # The part of the video that is the blind window; () = the best on training moments.
  constant: tuple[float, ...] = ()

  def __post_init__(self):
    choose(self.task, TASKS, "task")
    choose(self.captions, query_texts.CAPTIONS, "captions")
    choose(self.average, ("before", "after"), "average")
    choose(self.sampling, ("", "segments", "contiguous"), "sampling")
    choose(self.form, ("open", "choice", "count"), "form")
    choose(self.outside, ("wrong", "dropped"), "outside")
    choose(self.by, ("type", "first_word"), "by")
    for name in ("windows", "crops", "folds"):
      require(getattr(self, name) >= 1, f"{name}: {getattr(self, name)} is below 1")
    for name in ("frames", "clips", "queries", "temperature", "vocabulary", "padded"):
      require(getattr(self, name) >= 0, f"{name}: {getattr(self, name)} is negative")
    query_texts.check_classes(self.classes, self.prompts)
    self._check_moments()

  def _check_moments(self):
    """Rejects rules of moments and counts that mean nothing."""
    low, high = self.counts
    require(low <= high, f"counts: {self.counts}; give the least and the greatest")
    require(0 <= self.nms <= 1, f"nms: {self.nms} is not an IoU, 0 to 1")
    ious = bool(self.thresholds) and all(0 <= t <= 1 for t in self.thresholds)
    require(ious, f"thresholds: {self.thresholds}; give IoUs, 0 to 1")
    for name, (low, high) in self.lengths.items():
      require(0 <= low < high, f"lengths.{name}: ({low}, {high}) is not a range")
    part = self.constant
    if part:
      lawful = len(part) == 2 and 0 <= part[0] < part[1] <= 1
      require(lawful, f"constant: {part} is not a part of the video, such as (0, 0.3)")


def _tgif(kind: str, form: str, queries: int) -> Protocol:
  """The test of one of TGIF-QA's tasks."""
  return Protocol(
    task="answers",
    queries=queries,
    notes="tgif_qa",
    notes_variant=kind,
    types=(kind,),
    form=form,
  )


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
  # Questions (Xu et al., MM 2017): 504 videos of MSVD, 2,990 of MSR-VTT.
  msvd_qa=Protocol(task="answers", clips=504, queries=13_157, notes="msvd_qa"),
  msrvtt_qa=Protocol(task="answers", clips=2990, queries=72_821, notes="msrvtt_qa"),
  # Yu et al. (AAAI 2019).
  activitynet_qa=Protocol(
    task="answers", clips=800, queries=8000, notes="activitynet_qa"
  ),
  # Jang et al. (CVPR 2017), by the files, which differ from their README.
  tgif_frame=Protocol(
    task="answers",
    queries=13_691,
    notes="tgif_qa",
    notes_variant="frame",
    types=("object", "number", "colour", "location", "frame"),
  ),
  tgif_action=_tgif("action", "choice", 2274),
  tgif_transition=_tgif("transition", "choice", 6232),
  tgif_count=_tgif("count", "count", 3554),
  # The embedded data's questions, data/moving_shapes/questions.py.
  moving_shapes_qa=Protocol(
    task="answers", clips=1000, queries=3000, notes="questions"
  ),
  # LSMDC 2016 (Torabi et al. 2016): the right one of 5 sentences for 10,053 clips.
  lsmdc_mc=Protocol(task="answers", queries=10_053, notes="lsmdc_mc", form="choice"),
  # Gao et al. (TALL, ICCV 2017); NMS: 2D-TAN. Blind window: the best on train.
  charades_sta=Protocol(
    task="moments",
    clips=1334,
    queries=3720,
    notes="charades_sta",
    nms=0.45,
    constant=(0.0, 0.3),
  ),
  # Regneri et al. (TACL 2013), split of TALL; thresholds and NMS: 2D-TAN.
  tacos=Protocol(
    task="moments",
    clips=25,
    queries=4001,
    notes="tacos",
    thresholds=(0.1, 0.3, 0.5),
    nms=0.4,
  ),
  # ActivityNet Captions, val_2 (2D-TAN); lighthouse reports on val_1.
  activitynet_moments=Protocol(
    task="moments",
    clips=4885,
    queries=17_031,
    notes="activitynet",
    notes_variant="val_2",
    nms=0.5,
  ),
  # Lei et al. (NeurIPS 2021). Models predict within 150 s, in shorter videos, too.
  qvhighlights=Protocol(
    task="moments",
    split="validation",
    clips=1519,
    queries=1550,
    notes="moments",
    thresholds=(0.5, 0.7),
    padded=150.0,
    lengths=dict(short=(0.0, 10.0), middle=(10.0, 30.0), long=(30.0, 150.0)),
  ),
  # The embedded data, data/embedded/long.py.
  moving_shapes_long=Protocol(
    task="moments", clips=200, queries=1846, notes="moving_shapes_long", nms=0.5
  ),
  custom=Protocol(),
)


# Fields of the tasks that are scored by embeddings.
_EMBEDDED = {field.name for field in dataclasses.fields(Protocol)} - (
  {*FIELDS["answers"], *FIELDS["moments"]} - {*_NOTES[:4]}
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
      field in FIELDS.get(protocol.task, _EMBEDDED),
      f"protocol {name}.{field}: means nothing to task {protocol.task!r}; omit it",
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


def differences(protocol: Protocol, clips: int, queries: int) -> list[str]:
  """Counts that differ from the protocol's; metrics are then not comparable."""
  pairs = dict(clips=(clips, protocol.clips), queries=(queries, protocol.queries))
  return [
    f"{actual:,} {name}, not {expected:,}"
    for name, (actual, expected) in pairs.items()
    if expected and actual != expected
  ]
