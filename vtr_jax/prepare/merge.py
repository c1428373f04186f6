"""Merges shards to a data set with TFDS' metadata, tokenizer, checksums, manifest.

DIR/NAME/1.0.0/
  NAME-train.array_record-00000-of-00004 ...   the records, as sources.features()
  dataset_info.json features.json              TFDS' metadata
  tokenizer.model                              if there is a training split
  checksum.json                                sha256 of each split's records
  records.jsonl                                one line per record: id, size, sha256
  notes-FORMAT-train.jsonl ...                 questions, labels, moments, if any
  manifest.json                                counts, source, options, refused items
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import sys
from typing import Any

import av
import tensorflow_datasets as tfds

import vtr_jax
from vtr_jax.core import io
from vtr_jax.core.config import require
from vtr_jax.core.errors import DataBudgetError, DataError
from vtr_jax.core.paths import near
from vtr_jax.data import notes, sources
from vtr_jax.prepare import tokenizer
from vtr_jax.prepare.place import VERSION, Place
from vtr_jax.prepare.shards import TRAIN, read_json, report, shard_name, write_json


@dataclasses.dataclass(frozen=True)
class Final:
  """Options of the merge.

  bad_budget: fraction of all items that may be refused. tokenizer: vocabulary file to
  copy, see `tokenizers.base.load`; empty trains one on the training captions.
  vocab_size: max number of its pieces; few captions support fewer.
  """

  bad_budget: float = 0.01  # as in training, `data.max_bad_fraction`
  tokenizer: str = ""
  vocab_size: int = 8000  # ours: SentencePiece's own default

  def __post_init__(self):
    valid = 0 <= self.bad_budget <= 1
    require(valid, f"bad_budget: {self.bad_budget}; must be 0 to 1")
    require(self.vocab_size >= 64, f"vocab_size: {self.vocab_size}; must be 64 or more")

  def settings(self) -> dict[str, Any]:
    """The settings that must be equal in another merge of the same data set.

    Raises:
      DataError: the tokenizer's file does not exist.
    """
    if not self.tokenizer:
      return dict(tokenizer=dict(vocab_size=self.vocab_size))
    if not os.path.isfile(self.tokenizer):
      cure = f"correct --tokenizer{near(self.tokenizer)}"
      raise DataError(f"{self.tokenizer}: no such file; {cure}")
    data = pathlib.Path(self.tokenizer).read_bytes()
    return dict(tokenizer=dict(sha256=hashlib.sha256(data).hexdigest()))


def merge(place: Place, final: Final) -> None:
  """Merges the shards, unless the data set exists.

  Raises:
    DataError: a shard is missing or truncated, the tokenizer's file does not exist, or
      the existing data set was merged with another one.
    DataBudgetError: too many items were refused; all work is kept.
  """
  with place.held(alone=True):
    if place.complete():
      place.confirm(final.settings())
    else:
      plan = place.plan()
      reports = _reports(place, plan)
      refused = [
        note for split in reports.values() for r in split for note in r["refused"]
      ]
      _check_budget(place, refused, plan["items"], final)
      staging = _stage(place, plan, reports, refused, final)
      staging.rename(place.directory)
      io.sync(place.root)
      _print_summary(place)
    shutil.rmtree(place.work, ignore_errors=True)


def _reports(place: Place, plan: dict[str, Any]) -> dict[str, list[dict]]:
  """Every shard's report by split; checks that the shards' files are complete."""
  reports: dict[str, list[dict]] = {}
  missing, number = [], 0
  for split, count in plan["shards"].items():
    for index in range(count):
      name = shard_name(split, index)
      made = report(place.work, name)
      if made is None:
        missing.append(f"{name} (number {number})")
      else:
        _check_file(place.work / f"{name}.array_record", made)
        made.setdefault("notes", [[] for _ in made["rows"]])  # a job of version 0.1.0
        reports.setdefault(split, []).append(made)
      number += 1
  if missing:
    some = ", ".join(missing[:5]) + (" ..." if missing[5:] else "")
    raise DataError(
      f"{place.work}: {len(missing)} of {number} shards are missing: {some}; run the "
      "jobs again that make them, --shard=i/n with i = number modulo n"
    )
  return reports


def _check_file(path: pathlib.Path, made: dict[str, Any]) -> None:
  size = path.stat().st_size if path.exists() else 0
  if size != made["file_bytes"]:
    raise DataError(
      f"{path}: {size} of {made['file_bytes']} bytes; delete {path.stem}.json next to "
      "it and run its job again"
    )


def _check_budget(place: Place, refused: list[dict], items: int, final: Final) -> None:
  if len(refused) <= final.bad_budget * items:
    return
  path = place.work / "refused.jsonl"
  path.write_text("".join(json.dumps(note) + "\n" for note in refused))
  (reason, count), *_ = collections.Counter(_kind(n) for n in refused).most_common(1)
  raise DataBudgetError(
    f"{len(refused)} of {items} items are refused, {count} of them: {reason}; see "
    f"{path}; raise --bad_budget={final.bad_budget:g} to continue, or fix them, delete "
    f"{place.work} and run again"
  )


def _kind(note: dict) -> str:
  """The reason without digits and similar names, to count similar ones."""
  reason = note["reason"].partition("; did you mean")[0]
  return "".join(c for c in reason if not c.isdigit())


def _stage(place, plan, reports, refused, final) -> pathlib.Path:
  """Writes the complete data set under another name; returns its directory."""
  settings = final.settings()
  staging = place.work / "staging"
  shutil.rmtree(staging, ignore_errors=True)
  staging.mkdir()
  infos, lines, sums, texts = [], [], {}, {}
  for split, shards in reports.items():
    infos += _link(place, staging, split, shards)
    rows = [row for made in shards for row in made["rows"]]
    lines += [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    if text := _notes(split, shards):
      texts[split] = text
    if rows:
      sums[split] = _checksum(shards)
  if not infos:
    raise DataError(f"{place.work}: every item was refused; see its reports, *.json")
  with open(os.devnull, "w") as silent, contextlib.redirect_stdout(silent):
    tfds.folder_dataset.write_metadata(
      data_dir=str(staging),
      features=sources.features(),
      split_infos=infos,
      version=VERSION,
      check_data=False,
      disable_shuffling=True,
      description=f"Prepared by vtr_jax from {plan['origin']['format']}.",
    )
  (staging / "records.jsonl").write_text("".join(lines))
  vocabulary = tokenizer.write(
    staging / "tokenizer.model",
    reports.get(TRAIN, []),
    final.tokenizer,
    final.vocab_size,
  )
  pieces = vocabulary.vocab_size if vocabulary else 0
  write_json(staging / "checksum.json", sums)
  manifest = _manifest(plan, reports, refused, sums, pieces)
  if vocabulary:
    manifest["warned"] += tokenizer.without_tokens(place.name, vocabulary, reports)
  if texts:
    origin = plan["origin"]
    entry = dict(origin=origin, splits=notes.save(staging, origin["format"], texts))
    manifest["notes"] = {origin["format"]: entry}
  write_json(staging / "manifest.json", manifest | settings)
  for path in staging.iterdir():
    io.sync(path)
  io.sync(staging)
  return staging


def _notes(split: str, shards: list[dict]) -> str:
  """The lines of the file of a split's notes."""
  names = [row["id"] for made in shards for row in made["rows"]]
  values = [row for made in shards for row in made["notes"]]
  pairs = enumerate(zip(names, values, strict=True))
  return "".join(notes.lines(name, i, split, row) for i, (name, row) in pairs)


def _link(place, staging, split: str, shards: list[dict]) -> list[tfds.core.SplitInfo]:
  """Links the shards under TFDS' names, except those without records."""
  kept = [(i, made) for i, made in enumerate(shards) if made["rows"]]
  if not kept:
    return []
  template = tfds.core.ShardedFileTemplate(
    data_dir=staging,
    dataset_name=place.name,
    split=split,
    filetype_suffix="array_record",
  )
  for index, (i, _) in enumerate(kept):
    old = place.work / f"{shard_name(split, i)}.array_record"
    new = template.sharded_filepath(shard_index=index, num_shards=len(kept))
    try:
      os.link(old, new)
    except OSError:  # a file system without hard links
      shutil.copyfile(old, new)
  info = tfds.core.SplitInfo(
    name=split,
    shard_lengths=[len(made["rows"]) for _, made in kept],
    num_bytes=sum(made["bytes"] for _, made in kept),
    filename_template=template,
  )
  return [info]


def _checksum(shards: list[dict]) -> dict[str, str]:
  """SHA-256 over a split's records, and over its captions alone."""
  records, captions = hashlib.sha256(), hashlib.sha256()
  for made in shards:
    for row, texts in zip(made["rows"], made["captions"], strict=True):
      records.update(bytes.fromhex(row["sha256"]))
      captions.update(json.dumps(texts).encode())
  return dict(records=records.hexdigest(), captions=captions.hexdigest())


def _manifest(plan, reports, refused, sums, pieces: int) -> dict[str, Any]:
  splits = {}
  for split, shards in reports.items():
    rows = [row for made in shards for row in made["rows"]]
    splits[split] = dict(
      records=len(rows),
      refused=sum(len(made["refused"]) for made in shards),
      captions=sum(len(texts) for made in shards for texts in made["captions"]),
      frames=sum(row["frames"] for row in rows),
      seconds=round(sum(row["seconds"] for row in rows), 3),
      bytes=sum(made["bytes"] for made in shards),
      shards=sum(bool(made["rows"]) for made in shards),
      checksum=sums.get(split, {}).get("records", ""),
    )
  return dict(
    name=plan["name"],
    version=VERSION,
    origin=plan["origin"],
    items=plan["items"],
    annotations=plan["annotations"],
    splits=splits,
    options=plan["options"],
    seed=plan["seed"],
    shard_size=plan["shard_size"],
    tokenizer_pieces=pieces,
    versions=dict(
      vtr_jax=vtr_jax.__version__,
      av=av.__version__,
      **{k: ".".join(map(str, v)) for k, v in av.library_versions.items()},
    ),
    refused=refused,
    warned=[
      n for shards in reports.values() for made in shards for n in made["warned"]
    ],
  )


def _print_summary(place: Place) -> None:
  manifest = read_json(place.directory / "manifest.json")
  counts = ", ".join(f"{k} {v['records']}" for k, v in manifest["splits"].items())
  sets = manifest.get("notes", {}).values()
  noted = sum(entry["notes"] for made in sets for entry in made["splits"].values())
  print(
    f"{place.directory}: {counts}; refused {len(manifest['refused'])}, "
    f"warned of {len(manifest['warned'])}; notes {noted} (manifest.json)",
    file=sys.stderr,
  )
