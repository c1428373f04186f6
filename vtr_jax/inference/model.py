"""A trained model in Python: videos and texts in, embeddings of one space out."""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh
from jaxtyping import Float, Int, UInt8
from PIL import Image

from vtr_jax.core import processes
from vtr_jax.core.config import require
from vtr_jax.core.errors import BadSample, ConfigError, DataError
from vtr_jax.core.paths import near
from vtr_jax.core.progress import Bar
from vtr_jax.core.sharding import OnDevices
from vtr_jax.core.shutdown import warn
from vtr_jax.data import captions
from vtr_jax.data.crops import resize_view
from vtr_jax.data.examples import read_clip
from vtr_jax.data.questions import QuestionRows
from vtr_jax.data.tokenizers.base import Tokenizer, encode_all
from vtr_jax.data.video.decode import TimeSegments, frame_indices
from vtr_jax.eval import ranks
from vtr_jax.objectives.base import Objective, Params, probabilities
from vtr_jax.train.config import TrainConfig

T = TypeVar("T")
Video = str | os.PathLike | bytes | UInt8[np.ndarray, "_ _ _ 3"]


def parallel_map(call: Callable[..., T], arguments: Iterable[tuple]) -> Iterator[T]:
  """`call(*a)` of each of `arguments` in order, on threads, up to two each ahead."""
  threads = processes.cores()
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    waiting = collections.deque()
    for each in arguments:
      waiting.append(pool.submit(call, *each))
      if len(waiting) > 2 * threads:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedModel:
  """A trained model: embeds videos and texts. Arrays in and out are NumPy's.

  Made by `inference.load.load`; evaluations, figures and search share it.
  """

  config: TrainConfig
  objective: Objective
  params: Params  # on the devices of `mesh`
  mesh: Mesh
  step: int  # of the checkpoint
  vocabulary: Tokenizer | None  # None: opened with text=False

  @property
  def name(self) -> str:
    """Of the run."""
    return self.config.name

  @property
  def tokenizer(self) -> Tokenizer:
    """Captions to ids.

    Raises:
      DataError: the model was opened with text=False.
    """
    if self.vocabulary is None:
      raise DataError(f"{self.name}: opened with text=False, so without a tokenizer")
    return self.vocabulary

  @property
  def has_match_head(self) -> bool:
    """Whether `match_logits` can be called."""
    return "match" in self.objective.predict

  @property
  def classes(self) -> tuple[str, ...]:
    """Names of the classes of `classify_clips`; numbers if the run has no names.

    Raises:
      ConfigError: the objective predicts no classes.
    """
    self._predict("logits")
    known = self.objective.classes
    require(
      self.objective.num_classes > 0,
      f"{self.name}: its objective states no classes of its logits (Objective.classes)",
    )
    return known or tuple(map(str, range(self.objective.num_classes)))

  @functools.cached_property
  def dim(self) -> int:
    """Width of the embeddings."""
    c = self.config
    video = np.zeros(
      (1, c.clip.num_frames, c.clip.image_size, c.clip.image_size, 3), np.uint8
    )
    embed = self._predict("embed_video")
    return jax.eval_shape(embed, self.params, dict(video=video)).shape[1]

  @functools.cached_property
  def _embed_video(self) -> OnDevices:
    return OnDevices(self._predict("embed_video"), self.mesh)

  @functools.cached_property
  def _embed_text(self) -> OnDevices:
    return OnDevices(self._predict("embed_text"), self.mesh)

  @functools.cached_property
  def _classify(self) -> OnDevices:
    return OnDevices(probabilities(self._predict("logits")), self.mesh)

  @functools.cached_property
  def _answers(self) -> OnDevices:
    return OnDevices(self._predict("answers"), self.mesh)

  @functools.cached_property
  def _match(self) -> OnDevices:
    return OnDevices(self._predict("match"), self.mesh)

  def _predict(self, name: str) -> Callable[[Params, Any], Any]:
    return self.objective.prediction(name, self.name)

  @functools.cached_property
  def id(self) -> str:
    """Name, step and a checksum of the parameters, which identifies them."""
    digest = hashlib.blake2b(digest_size=8)
    for path, x in sorted(flatten_dict(self.params, sep="/").items()):
      digest.update(path.encode())
      digest.update(np.ascontiguousarray(jax.device_get(x)).data)
    return f"{self.name}@{self.step}-{digest.hexdigest()}"

  def embed_video(
    self, videos: Iterable[Video], progress: bool = False
  ) -> Float[np.ndarray, "n e"]:
    """Embeddings of unit norm, one for each video: of the clip in its middle.

    Args:
      videos: paths, encoded files as bytes, or frames of RGB [t h w 3] uint8 of any
        length and size; images are videos of one frame.
      progress: whether to show a bar with the time that is left.

    Raises:
      DataError: one cannot be read or decoded; it is named.
    """
    if isinstance(videos, str | os.PathLike | bytes):
      raise DataError("videos: one of them; give a list")
    videos = list(videos)
    clips = parallel_map(self._named_clip, enumerate(videos))
    bar = Bar(
      clips, "embedding videos", len(videos), unit="video", disable=not progress
    )
    # iter: beartype would draw an item from an iterable with a length.
    return self.embed_clips(iter(bar))

  def embed_clips(
    self, clips: Iterable[UInt8[np.ndarray, "_ _ _ 3"]]
  ) -> Float[np.ndarray, "n e"]:
    """Embeddings of clips that have the model's number of frames and image size."""
    return self._rows(self._embed_video, (dict(video=clip) for clip in clips))

  def classify_clips(
    self, clips: Iterable[UInt8[np.ndarray, "_ _ _ 3"]]
  ) -> Float[np.ndarray, "n c"]:
    """Probabilities of `classes` for clips of the model's frames and image size.

    Raises:
      ConfigError: the objective predicts no classes.
    """
    rows = (dict(video=clip) for clip in clips)
    return self._rows(self._classify, rows, len(self.classes))

  def embed_text(self, texts: Iterable[str]) -> Float[np.ndarray, "n e"]:
    """Embeddings of unit norm, one for each text.

    Raises:
      DataError: one is empty, or has no token in the vocabulary.
    """
    if isinstance(texts, str):
      raise DataError("texts: one string; give a list of them")
    return self._rows(self._embed_text, self._token_rows(list(texts)))

  def similarity(
    self, texts: Iterable[str], videos: Iterable[Video]
  ) -> Float[np.ndarray, "t v"]:
    """Cosines of texts and videos."""
    return ranks.cosines(self.embed_text(texts), self.embed_video(videos))

  def match_logits(
    self,
    texts: Sequence[str],
    clips: Iterable[UInt8[np.ndarray, "_ _ _ 3"]],
  ) -> Float[np.ndarray, " n"]:
    """How well texts[i] and clips[i] fit, read together: log-odds, for re-ranking.

    Raises:
      ConfigError: the model has no matching head; see `has_match_head`.
    """
    if not self.has_match_head:
      raise ConfigError(
        f"match_logits: {self.name} has no matching head; see has_match_head"
      )
    if not texts:
      return np.zeros(0, np.float32)
    pairs = zip(self._token_rows(texts), clips, strict=True)
    rows = (row | dict(video=clip) for row, clip in pairs)
    return self._rows(self._match, rows)

  @property
  def questions(self) -> QuestionRows:
    """How questions are read, and what the model can answer.

    Raises:
      ConfigError: the model answers no questions.
    """
    self._predict("answers")
    rows = self.objective.rows
    require(
      isinstance(rows, QuestionRows),
      f"{self.name}: its objective answers questions, but not as objective 'answers'",
    )
    assert isinstance(rows, QuestionRows)
    return rows

  def answer(
    self,
    videos: Iterable[Video],
    questions: Iterable[str],
    options: Iterable[Sequence[str]] | None = None,
  ) -> list[Any]:
    """The answer to questions[i] about videos[i]: a text, or of form count a number.

    Args:
      videos: as of `embed_video`.
      questions: one for each video.
      options: of each question, for a model that chooses among options, and no other.

    Raises:
      ConfigError: the model answers no questions, or (only) among options.
      DataError: a video cannot be read, a question is empty, or their numbers differ.
    """
    if isinstance(videos, str | os.PathLike | bytes) or isinstance(questions, str):
      raise DataError("videos, questions: one of them; give lists")
    videos, questions = list(videos), list(questions)
    given = None if options is None else [tuple(own) for own in options]
    if len({len(videos), len(questions), len(given or videos)}) > 1:
      raise DataError(
        f"{len(videos)} videos, {len(questions)} questions"
        + (f", {len(given)} lists of options" if given is not None else "")
        + "; give one for each"
      )
    rows, own = self.questions, given or [()] * len(questions)
    clips = parallel_map(self._named_clip, enumerate(videos))
    scores = self.answer_scores(zip(clips, questions, own, strict=True))
    return rows.answers(scores, own)

  def answer_scores(
    self, asked: Iterable[tuple[np.ndarray, str, Sequence[str]]]
  ) -> Float[np.ndarray, "n v"]:
    """Scores of the answers, of the options, or a count: what `questions` can answer.

    Args:
      asked: clips of the model's number of frames and image size, a question about
        each, and its options; () unless the model chooses among options.

    Raises:
      ConfigError: as `answer`, as is DataError.
    """
    rows, length = self.questions, self.config.text.max_length
    expected = rows.options if rows.form == "choice" else 0

    def encoded() -> Iterator[dict[str, np.ndarray]]:
      for number, (clip, question, options) in enumerate(asked):
        require(
          len(options) == expected,
          f"options: {len(options)} of question {number}, but {self.name} "
          + (f"chooses among {expected}" if expected else "takes none; omit them"),
        )
        try:
          row = rows.encode(question, options, self.tokenizer, length)
        except BadSample as e:
          raise DataError(f"question {number}: {e}; correct it") from e
        yield row | dict(video=clip)

    return self._rows(self._answers, encoded(), self.objective.model.settings.outputs)

  def indices(
    self, count: int, times: Float[np.ndarray, " n"] | None = None
  ) -> Int[np.ndarray, " t"]:
    """Which of `count` frames, shown at `times`, make the clip in the middle."""
    clip, data = self.config.clip, self.config.data
    if times is not None and data.sampling == "time_segments":
      return TimeSegments(clip.num_frames).at(times)
    return frame_indices(count, clip.num_frames, data.sampling, data.stride, None)

  def clip(
    self, video: Video, damage: list[str] | None = None
  ) -> UInt8[np.ndarray, "t h w 3"]:
    """The clip in the middle of a video, as the model's input.

    Args:
      video: a path, the bytes of a file, or frames.
      damage: gets a line if the clip is of what is left of a damaged file.

    Raises:
      BadSample: it cannot be decoded, or has no frames. OSError: it cannot be read.
    """
    if isinstance(video, np.ndarray):
      if video.ndim != 4 or video.shape[3] != 3 or video.dtype != np.uint8:
        raise BadSample(f"{video.dtype} {video.shape} is not uint8 [frames, h, w, 3]")
      if not video.size:
        raise BadSample("no frames")
      return self.resized(video[self.indices(len(video))])
    data = video if isinstance(video, bytes) else pathlib.Path(video).read_bytes()
    return read_clip(data, self.config.clip, self.config.data, None, damage)

  def resized(
    self, frames: UInt8[np.ndarray, "t h w 3"]
  ) -> UInt8[np.ndarray, "t s s 3"]:
    """Frames in the model's size: the short side resized, the middle cut out."""
    size = self.config.clip.image_size
    view = resize_view(frames.shape[1], frames.shape[2], size)
    if frames.shape[1:3] == (size, size):
      return frames
    box = (view.left, view.top, view.left + size, view.top + size)
    shape, how = (view.width, view.height), Image.Resampling.BILINEAR
    return np.stack(
      [np.asarray(Image.fromarray(f).resize(shape, how).crop(box)) for f in frames]
    )

  def _named_clip(self, number: int, video: Video) -> np.ndarray:
    damage: list[str] = []
    plain = isinstance(video, str | os.PathLike)
    name = str(video) if plain else f"video {number}"
    try:
      clip = self.clip(video, damage)
    except (BadSample, OSError) as e:
      reason = e.strerror if isinstance(e, OSError) else e
      hint = near(name) if isinstance(e, FileNotFoundError) else ""
      raise DataError(f"{name}: {reason}; repair it or leave it out{hint}") from e
    for reason in damage:
      warn(f"{name}: {reason}; the clip is taken from these")
    return clip

  def _token_rows(self, texts: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
    if not texts:
      return
    for number, text in enumerate(texts):
      if not isinstance(text, str):
        raise DataError(f"text {number}: {text!r} is not a string")
    captions.check(self.tokenizer, texts, self.name, lambda i: f"text {i}")
    pair = encode_all(self.tokenizer, texts, self.config.text.max_length)
    for ids, valid in zip(*pair, strict=True):
      yield dict(text_ids=ids, text_valid=valid)

  def _rows(
    self, function: OnDevices, rows: Iterable[Mapping[str, Any]], width: int = 0
  ) -> Float[np.ndarray, "n ..."]:
    """`function` of rows, in batches of few sizes: each is compiled once.

    While a batch is computed, the rows of the next one are read. Without rows, the
    result is as wide as the embeddings, or `width`.
    """
    outputs, waiting, devices = [], [], self.mesh.size
    full = devices * -(-self.config.eval_batch_size // devices)
    finish: Callable[[], None] = lambda: None

    def start() -> Callable[[], None]:
      count, size = len(waiting), devices
      while size < count:
        size *= 2
      padded = waiting + waiting[-1:] * (min(size, full) - count)
      batch = {k: np.stack([row[k] for row in padded]) for k in padded[0]}
      result = function.start(self.params, batch)
      waiting.clear()
      return lambda: outputs.append(result()[:count])

    for row in rows:
      waiting.append(row)
      if len(waiting) == full:
        started = start()
        finish()
        finish = started
    finish()
    if waiting:
      start()()
    if not outputs:
      return np.zeros((0, width or self.dim), np.float32)
    return np.concatenate(outputs)
