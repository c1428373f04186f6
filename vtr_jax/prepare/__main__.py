"""Turns videos or images with annotations into checked, shuffled shards.

    python -m vtr_jax.prepare --format=csv --source=VIDEOS --annotations=FILE \\
      --out=data --name=mine
    python -m vtr_jax.prepare --check=data/mine/1.0.0
    python -m vtr_jax.prepare --format=msvd_qa --annotations=DIR --notes_of=data/msvd

See docs/prepare.md for many machines, options, and the items that are refused.
"""

import dataclasses
import pathlib
import sys
import types
from typing import Any

from absl import flags

from vtr_jax.core import buckets, cli, paths
from vtr_jax.core.config import require
from vtr_jax.core.errors import DataError
from vtr_jax.data import sources
from vtr_jax.prepare import check, cluster, merge, notes
from vtr_jax.prepare.formats import base
from vtr_jax.prepare.options import Options
from vtr_jax.prepare.place import Place
from vtr_jax.prepare.run import Run, parse_job, prepare

_GIVEN = dict(
  format=("", "Format of the annotations; one of vtr_jax/prepare/formats."),
  source=("", "Directory of the media, or tar files."),
  annotations=("", "File or directory of the annotations; empty is --source."),
  variant=("", "The format's variant, such as a cut of MSR-VTT."),
  split=("", "The split, where the files name none; otherwise the only one to read."),
  allow_pickle=(False, "Read pickles; only plain data in them are loaded."),
  out=("data", "Directory of all data sets; the result is OUT/NAME/1.0.0."),
  name=("", "Name of the data set; empty is the format's."),
  shard_size=(256, "Items per shard."),  # ours: some 50 MB
  seed=(0, "Seed of the order of the training split."),
  shard=("0/1", "i/n: write the i-th of n parts, counted from 0; then --merge."),
  merge=(False, "Merge the shards of all jobs."),
  push=("", "gs://bucket/data: copy the finished data set, or new notes, there."),
  check=("", "Directory of a prepared data set: only verify it."),
  notes_of=("", "Directory of a prepared data set: only add the format's notes to it."),
  all_intra=(False, "Every frame a key frame, as --gop=1: larger, fastest to read."),
)
_OPTIONS = dict(
  copy="Keep the bytes as they are, after the same checks.",
  short_side="Pixels of the short side; smaller frames are not enlarged.",
  fps="Frames per second; 0 keeps every frame at its time.",
  gop="Frames from one key frame to the next, at most.",
  crf="x264's quality, 0 to 51, lower is better.",
  needed="Min frames of a damaged file that is cut short; 0 refuses damaged files.",
  max_pixels="Max pixels of a frame.",
  max_seconds="Max seconds of an item.",
  max_mb="Max MB of a file, or of a tar's member.",
  allow_no_captions="Keep items without caption, label and note.",
)
_RUN = dict(
  workers="Processes; 0 is one per core.",
  deadline="Max seconds for one item.",
  runner="local: this machine; ray: the cluster of RAY_ADDRESS, or Ray started here.",
)
_FINAL = dict(
  bad_budget="Fraction of the items that may be refused.",
  tokenizer="Vocabulary file to copy; empty trains one on the captions.",
  vocab_size="Max pieces of the tokenizer.",
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
  push = given.push
  require(
    not push or paths.is_bucket(push),
    f"--push: {push}: not a bucket; give gs://BUCKET/DIR",
  )
  require(not push or not given.check, "--push: --check copies nothing; omit one")
  alone = not (given.check or given.merge or given.notes_of)
  require(
    alone or given.runner == "local",
    f"--runner: {given.runner} makes shards; omit --check, --merge and --notes_of",
  )
  if given.check:
    check.check(given.check, given.workers)
    return
  final = merge.Final(**{name: getattr(given, name) for name in _FINAL})
  if given.merge:
    require(
      bool(given.name or given.format), "--name: missing; name the data set to merge"
    )
    place = Place(given.out, given.name or given.format)
    merge.merge(place, final)
    _push(place, push)
    return
  require(bool(given.format), f"--format: missing; known: {', '.join(base.kinds())}")
  if given.notes_of:
    directory = _add_notes(given, final)
    if push:
      _copy(directory, push)
    return
  require(bool(given.source), "--source: missing; name the directory of the media")
  place = Place(given.out, given.name or given.format)
  require(given.shard_size > 0, f"--shard_size: {given.shard_size}; must be positive")
  given.gop = 1 if given.all_intra else given.gop
  options = Options(**{name: getattr(given, name) for name in _OPTIONS})
  job, jobs = parse_job(given.shard)
  run = Run(given.workers, given.deadline, job, jobs, given.runner)
  if run.runner == "ray":
    cluster.check_installed()
  values = _request(given)
  items = base.open(given.format, base.Request(**values))
  origin = dict(format=given.format) | values
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
  _push(place, push)


def _push(place: Place, data: str) -> None:
  """Copies a complete data set to a bucket; again, only what is missing there."""
  if data and place.complete():
    _copy(place.directory, data)


def _copy(directory: pathlib.Path, data: str) -> None:
  url = f"{data.rstrip('/')}/{directory.parent.name}/{directory.name}"
  count = buckets.upload(directory, url, "dataset_info.json")
  print(f"{url}: {count} files copied", file=sys.stderr)


def _request(given: types.SimpleNamespace) -> dict[str, Any]:
  return {f.name: getattr(given, f.name) for f in dataclasses.fields(base.Request)}


def _add_notes(given: types.SimpleNamespace, final: merge.Final) -> pathlib.Path:
  """Adds the notes of annotations to a prepared data set; returns its directory."""
  require(
    bool(given.annotations or given.source),
    "annotations: missing; name the directory of the files to read",
  )
  try:
    directory = sources.find("", given.notes_of)
  except DataError as e:
    raise DataError(f"{given.notes_of}: no prepared data set; fix --notes_of") from e
  origin = dict(format=given.format) | _request(given)
  request = base.Request(**_request(given))
  # Formats list the files of the media; here nothing depends on what they find.
  request = dataclasses.replace(request, source=given.source or directory)
  items = base.open(given.format, request)
  notes.add(directory, items, origin, final.bad_budget)
  return pathlib.Path(directory).absolute()


if __name__ == "__main__":
  _define()
  cli.run(_call, here=frozenset({"out"}))
