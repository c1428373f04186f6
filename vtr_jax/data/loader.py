"""Records to batches, in one global order for any number of hosts and workers.

Row r of global batch s is example g = s * batch_size + r of the split, shuffled and
repeated endlessly. All randomness of an example comes from a generator seeded by
(seed, g); the number of frames of its clip follows from s. Each host takes its rows. So
a stream can be resumed at any step, on other machines, with identical examples. With
several data sets (`data.mixture`), the step determines which of them fill the batch,
and s counts the batches of these. With `data.repeats` = k (repeated augmentation, arXiv
1901.09335), rows g = k i to k i + k - 1 are clips of record i of that order, each with
its own generator.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence

import grain
import numpy as np
from jaxtyping import Int64

from vtr_jax.core.batch import ClipSpec, MaskSpec, TextSpec
from vtr_jax.core.config import require
from vtr_jax.core.errors import BadSample
from vtr_jax.core.shutdown import warn
from vtr_jax.data import captions as captions_lib
from vtr_jax.data import sources
from vtr_jax.data.examples import (
  CaptionRows,
  DataConfig,
  EvalExample,
  Reader,
  Rows,
  TrainExample,
  check_frames,
)
from vtr_jax.data.mixture import Joined, Mixture
from vtr_jax.data.tokenizers import base as tokenizers
from vtr_jax.data.workers import (
  Batches,
  ByTurns,
  HostBatches,
  Repeated,
  check_shared_memory,
)


def train_batches(
  data: DataConfig,
  clip: ClipSpec,
  text_spec: TextSpec,
  mask: MaskSpec,
  tokenizer: tokenizers.Tokenizer,
  *,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  host: int = 0,
  num_hosts: int = 1,
  rows: Rows = CaptionRows(),  # noqa: B008 (has no state)
) -> Batches:
  """This host's rows of the training batches, for ever.

  A record that cannot be used is replaced by another, drawn from the example's
  own generator; its row has valid = False and gives the reason in `problem`.

  Args:
    data: where the records are and how clips are cut.
    clip: size of the clip; `data.curriculum` and `data.mixture` may have it shorter.
    text_spec: size of the text.
    mask: what is masked.
    tokenizer: captions to ids.
    batch_size: rows of the global batch.
    seed: of the order and of everything drawn for an example; 0 to 2**32 - 1.
    start_step: number of the first batch; costs nothing.
    host: number of this host.
    num_hosts: hosts that share the global batch evenly.
    rows: what a row holds; of the objective.

  Returns:
    Batches as `rows.spec` for the frames of their step, with `record` [b] int64,
    the index of the requested example, counted through all of `data.mixture`,
    and `problem` [b] str, "" or "id: reason".

  Raises:
    DataError: the split cannot be opened, or does not fit the tokenizer.
    ConfigError: the hosts cannot share the batch evenly, `data.repeats` does not
      divide it, frames do not fit the clip, or shared memory is too small.
    DataBudgetError: (while iterating) ten records in a row are unusable.
  """
  check_frames(data, clip)
  require(
    batch_size % data.repeats == 0,
    f"config.batch_size: {batch_size} is not a multiple of config.data.repeats = "
    f"{data.repeats}; change one of them",
  )
  tokenizers.check(tokenizer, text_spec)
  splits, source = examples(data, rows)
  if data.mixture:
    parts = data.parts(clip)
    mixture = Mixture(parts, [len(split) for split in splits], seed)
    orders, at = mixture.orders(), mixture.at
  else:
    order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    orders, at = {0: order}, lambda step: (0, step)
  batches = {}
  for part_frames, order in orders.items():
    if data.repeats > 1:
      order = Repeated(order, data.repeats)
    for frames in data.frame_counts(clip, part_frames):
      cut = dataclasses.replace(clip, num_frames=frames)
      reader = Reader(data, cut, text_spec, mask, tokenizer)
      stream = order.random_map(TrainExample(source, rows, reader))
      batches[part_frames, frames] = HostBatches(stream, batch_size, host, num_hosts)

  spec = rows.spec(clip, text_spec, mask, batch_size).values()
  size = sum(math.prod(x.shape) * x.dtype.itemsize for x in spec) // num_hosts
  check_shared_memory(size, data.num_workers)
  turn = functools.partial(_turn, data, clip, at)
  return Batches(
    ByTurns(batches, turn).slice(slice(start_step, None)), data.num_workers
  )


def examples(
  data: DataConfig, rows: Rows
) -> tuple[list[sources.Records], sources.Records]:
  """What training rows are made of: (by part of the mixture, all of it)."""
  if not data.mixture:
    source = rows.examples(data.open())
    return [source], source
  splits = [rows.examples(split) for split in data.open_mixture()]
  return splits, Joined([part.name for part in data.mixture], splits)


def _turn(
  data: DataConfig, clip: ClipSpec, at: Callable[[int], tuple[int, int]], step: int
) -> tuple[tuple[int, int], int]:
  """(frames of the part, frames of the clip) at a step, and the number of the batch."""
  part_frames, number = at(step)
  return (part_frames, part_frames or data.frames_at(clip, step)), number


def eval_videos(
  source: sources.Split,
  data: DataConfig,
  clip: ClipSpec,
  batch_size: int,
  *,
  workers: int = 0,
  host: int = 0,
  num_hosts: int = 1,
) -> Batches:
  """This host's rows of every video of a split, once, in order.

  Returns:
    Batches of video, valid and record. The last one is filled up with rows of
    valid = False and record = -1; every host gets the same number of batches.

  Raises:
    ConfigError: the hosts cannot share the batch evenly, or shared memory is too small.
    DataError: (while iterating) a record is unusable; its index and id are named.
  """
  frame = clip.image_size**2 * 3
  check_shared_memory(batch_size // num_hosts * clip.num_frames * frame, workers)
  dataset = grain.MapDataset.range(len(source)).map(EvalExample(source, data, clip))
  return Batches(HostBatches(dataset, batch_size, host, num_hosts), workers)


def captions(source: sources.Split) -> tuple[list[str], Int64[np.ndarray, " q"]]:
  """All captions of a split in order, and the record that each belongs to.

  Raises:
    DataError: a record has no caption or cannot be read.
  """
  texts, owner = [], []
  for index, annotation in enumerate(sources.annotations(source)):
    if not annotation.captions:
      raise sources.unusable(source, index, BadSample("no caption"))
    texts += annotation.captions
    owner += [index] * len(annotation.captions)
  if len(texts) > 1 and len(set(texts)) == 1:
    warn(f"{source.directory}: all {len(texts)} captions are equal, {texts[0][:60]!r}")
  return texts, np.array(owner, np.int64)


def eval_texts(
  source: sources.Split | Sequence[str],
  text_spec: TextSpec,
  tokenizer: tokenizers.Tokenizer,
  batch_size: int,
  *,
  host: int = 0,
  num_hosts: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
  """This host's rows of every caption, once, in the order of `captions`.

  Args:
    source: a split, or the texts themselves.
    text_spec: size of the text.
    tokenizer: captions to ids.
    batch_size: rows of the global batch.
    host: number of this host.
    num_hosts: hosts that share the global batch evenly.

  Yields:
    text_ids, text_valid, valid, and record [b] int64: the record that the
    caption belongs to (for plain texts their own number), -1 in filling rows.

  Raises:
    DataError: a caption is empty, or the vocabulary does not fit `text_spec`.
  """
  tokenizers.check(tokenizer, text_spec)
  if isinstance(source, sources.Split):
    texts, owner = captions(source)
  else:
    texts, owner = list(source), np.arange(len(source))

  captions_lib.check(tokenizer, texts, "evaluation", lambda i: f"caption {i}")

  def example(index: int) -> dict:
    ids, valid = tokenizer.encode(texts[index], text_spec.max_length)
    return dict(
      text_ids=ids, text_valid=valid, valid=np.True_, record=np.int64(owner[index])
    )

  dataset = grain.MapDataset.range(len(texts)).map(example)
  batches = HostBatches(dataset, batch_size, host, num_hosts)
  return (batches.batch(step) for step in range(len(batches)))
