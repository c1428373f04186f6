"""Turns videos or images with annotations into checked, shuffled shards.

    python -m vtr_jax.prepare --format=csv --source=VIDEOS --annotations=FILE \\
      --out=data --name=mine
    python -m vtr_jax.prepare --check=data/mine/1.0.0

docs/prepare.md tells the rest: jobs of a scheduler, options, what is refused.
"""

import dataclasses
import types

from absl import flags

from vtr_jax.core import cli
from vtr_jax.core.config import require
from vtr_jax.prepare import check, merge
from vtr_jax.prepare.formats import base
from vtr_jax.prepare.options import Options
from vtr_jax.prepare.place import Place
from vtr_jax.prepare.run import Run, parse_job, prepare

_GIVEN = dict(
  format=("", "What the annotations look like; one of vtr_jax/formats."),
  source=("", "Directory of the media, or tar files."),
  annotations=("", "File or directory of the annotations; empty is --source."),
  variant=("", "The format's variant, such as a cut of MSR-VTT."),
  split=("", "Names the split where the files do not; else takes that one alone."),
  allow_pickle=(False, "Read pickles, of which only plain data are unpacked."),
  out=("data", "Where data sets lie; the result is OUT/NAME/1.0.0."),
  name=("", "Name of the data set; empty is the format's."),
  shard_size=(256, "Items per shard."),  # ours: some 50 MB
  seed=(0, "Of the order of the training split."),
  shard=("0/1", "i/n: make the i-th of n parts, counted from 0; then --merge."),
  merge=(False, "Put together what all jobs have made."),
  check=("", "Directory of a prepared data set: verify it, and do nothing else."),
  all_intra=(False, "Every frame a key frame, as --gop=1: larger, fastest to read."),
)
_OPTIONS = dict(
  copy="Keep the bytes as they are, after the same checks.",
  short_side="Pixels of the short side; smaller pictures are not enlarged.",
  fps="Frames per second; 0 keeps every frame at its time.",
  gop="Frames from one key frame to the next, at most.",
  crf="x264's quality, 0 to 51, lower is better.",
  needed="Damaged files with so many good frames are cut short; 0 refuses them.",
  max_pixels="Pixels of a frame, at most.",
  max_seconds="Seconds of an item, at most.",
  max_mb="MB of a file, or of a tar's member, at most.",
  allow_no_captions="Keep items that have neither caption nor label.",
)
_RUN = dict(
  workers="Processes; 0 is one per core.",
  deadline="Seconds for one item, at most.",
)
_FINAL = dict(
  bad_budget="Share of the items that may be refused.",
  tokenizer="Vocabulary file to copy; empty trains one on the captions.",
  vocab_size="Pieces of the tokenizer, at most.",
)


def _define() -> None:
  for name, (default, text) in _GIVEN.items():
    _flag(name, default, text)
  for kind, texts in ((Options, _OPTIONS), (Run, _RUN), (merge.Final, _FINAL)):
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    for name, text in texts.items():
      _flag(name, defaults[name], text)


def _flag(name: str, default, text: str) -> None:
  define = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
  }
  define[type(default)](name, default, text)


def _call() -> None:
  given = types.SimpleNamespace(**flags.FLAGS.flag_values_dict())
  if given.check:
    check.check(given.check, given.workers)
    return
  final = merge.Final(**{name: getattr(given, name) for name in _FINAL})
  if given.merge:
    require(bool(given.name or given.format), "name: missing; what is to be merged?")
    merge.merge(Place(given.out, given.name or given.format), final)
    return
  require(bool(given.format), f"format: missing; known: {', '.join(base.kinds())}")
  require(bool(given.source), "source: missing; name the directory of the media")
  place = Place(given.out, given.name or given.format)
  require(given.shard_size > 0, f"shard_size: {given.shard_size}; must be positive")
  given.gop = 1 if given.all_intra else given.gop
  options = Options(**{name: getattr(given, name) for name in _OPTIONS})
  job, jobs = parse_job(given.shard)
  run = Run(given.workers, given.deadline, job, jobs)
  asked = {f.name: getattr(given, f.name) for f in dataclasses.fields(base.Request)}
  items = base.open(given.format, base.Request(**asked))
  origin = dict(format=given.format) | asked
  prepare(
    place,
    items,
    origin,
    options,
    run,
    final,
    shard_size=given.shard_size,
    seed=given.seed,
  )


if __name__ == "__main__":
  _define()
  cli.run(_call)
