"""Damaged weights, vocabularies, records, indexes: read, or rejected in one line."""

import functools
import gzip
import io
import json
import pathlib
import zipfile
import zlib

import clips
import fuzz
import fuzz_work
import numpy as np
import pth
import safetensors.numpy
from array_record.python import array_record_module
from fuzz import Case, Inputs
from fuzz_formats import PICKLES
from index_cases import HEADER, file
from mutations import Lines, dumped, edited, mutate, text
from tokenizer_cases import MAKE

from vtr_jax.search import store
from vtr_jax.search.writer import Writer

worker, run, CASES = fuzz.worker, fuzz.run, fuzz.Cases()

STATE = dict(a=np.arange(6, dtype="f").reshape(2, 3), half=np.ones(4, "f2"))


def weights(folder):
  """Files of safetensors and of PyTorch, and the pickle in the latter."""
  safetensors.numpy.save_file(STATE, folder / "a")
  pth.write(folder / "b", dict(epoch=3, state_dict=STATE))
  with zipfile.ZipFile(folder / "b") as archive:
    program = archive.read("archive/data.pkl")
  flat, torch = (folder / "a").read_bytes(), (folder / "b").read_bytes()

  def make(rng):
    kind = rng.randrange(4)
    if kind == 0:
      data = with_damaged_header(flat, rng)
    elif kind == 1:
      data = zipped(mutate(program, rng))
    else:
      data = mutate((flat, torch)[kind - 2], rng)
    return {"weights": data}

  return Inputs({"weights": flat}, [{"weights": zipped(p)} for p in PICKLES], make)


def zipped(program):
  out = io.BytesIO()
  with zipfile.ZipFile(out, "w") as archive:
    archive.writestr("archive/data.pkl", program)
    for i, array in enumerate(STATE.values()):
      archive.writestr(f"archive/data/{i}", array.tobytes())
  return out.getvalue()


def with_damaged_header(data, rng):
  """A safetensors file whose JSON is mutated, and its length right."""
  size = int.from_bytes(data[:8], "little")
  header = mutate(json.loads(data[8 : 8 + size]), rng)
  return len(header).to_bytes(8, "little") + header + data[8 + size :]


def vocabulary(kind, folder):
  if kind == "ours":
    data = clips.train_pieces(folder / "a.model").read_bytes()
  else:
    data = pathlib.Path(MAKE[kind.removeprefix("packed-")](folder)).read_bytes()
  if kind.startswith("packed"):
    data = gzip.compress(data, mtime=0)

  def make(rng):
    damaged = mutate(data, rng)
    captions = dumped([text(rng), "a red ball", text(rng)])
    return {"tokenizer.model": damaged, "captions.json": captions}

  captions = [dumped([caption]) for caption in ("\ud800", "\0", "a" * 100_000)]
  files = {"tokenizer.model": data, "captions.json": b""}
  return Inputs(files, [{"captions.json": c} for c in captions], make)


def records(folder):
  """Metadata, shards, and valid shards of damaged records."""
  rows = [clips.record(f"clip{i}", b"video", ["größe", f"take {i}"]) for i in range(4)]
  paths = sorted(pathlib.Path(clips.prepare(folder, dict(train=rows))).iterdir())
  files = {f"1.0.0/{path.name}": path.read_bytes() for path in paths}
  (shard,) = (name for name in files if "array_record" in name)
  (path,) = (path for path in paths if "array_record" in path.name)
  examples = array_record_module.ArrayRecordReader(str(path)).read_all()

  def make(rng):
    name = rng.choice([*files, shard, shard])
    if name != shard:
      return {name: mutate(json.loads(files[name]), rng)}
    if rng.random() < 0.3:
      return {name: mutate(files[name], rng)}
    changed = list(examples)
    number = rng.randrange(len(changed))
    changed[number] = mutate(changed[number], rng)
    return {name: written_shard(folder / "shard", changed)}

  return Inputs(files, make=make)


def written_shard(path, examples):
  """The bytes of a shard."""
  writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
  for data in examples:
    writer.write(data)
  writer.close()
  return path.read_bytes()


def sealed(manifest):
  """A manifest whose checksum is right."""
  if isinstance(manifest, dict):
    manifest.pop("check", None)
    manifest["check"] = store.checksum(manifest)
  return {"manifest.json": dumped(manifest)}


def journal(data, manifest):
  """Lines, and a manifest with their size and checksum."""
  sizes = manifest["sizes"] | dict(files=len(data))
  sums = manifest["checksums"] | dict(files=zlib.crc32(data))
  return {"files-1.jsonl": data} | sealed(manifest | dict(sizes=sizes, checksums=sums))


def index(folder):
  """Any file damaged, also where all checksums are right."""
  with Writer(folder / "good", HEADER) as writer:
    for name, rows in (("a/ü.mp4", 3), ("b.mp4", 2)):
      writer.add(file(name), np.ones((rows, 4)), np.ones((rows, 2)))
    writer.note(file("c.mp4", error="no video"))
  files = {path.name: path.read_bytes() for path in (folder / "good").iterdir()}
  manifest = json.loads(files["manifest.json"])
  lines = Lines(map(json.loads, files["files-1.jsonl"].splitlines()))

  def make(rng):
    kind = rng.randrange(4)
    if kind == 0:
      return sealed(edited(manifest, rng, rng.randint(1, 3)))
    if kind == 1:
      return journal(mutate(lines, rng) + b"\n", manifest)
    name = rng.choice(sorted(files))
    return {name: mutate(files[name], rng)}

  twice = dumped(Lines([["a", 1, 2, "", 0, 3, ""], ["b", 1, 2, "", 1, 2, ""]]))
  examples = (
    journal(twice + b"\n", manifest),
    journal(twice, manifest),  # the last line has no end
    journal(b"[" * 100_000 + b"\n", manifest),
    sealed(manifest | dict(generation=7)),
    sealed(manifest | dict(rows=0, header=manifest["header"] | {"dim": 1 << 70})),
  )
  return Inputs(files, examples, make)


@CASES.reader(30, 3000, index, name="index")
def read_index(folder):
  """Reads an index, asks for its clips, and writes to it."""
  fuzz.outcome(lambda: store.header(folder), folder)
  if found := fuzz.outcome(lambda: store.open(folder), folder):
    for row in range(found.rows + 1):
      if owner := fuzz.outcome(lambda r=row: found.owner(r), folder):
        found.path(owner)
        assert owner.row <= row < owner.row + owner.clips
    assert found.under("a").shape == (found.rows,)
  if writer := fuzz.outcome(lambda: Writer(folder, HEADER), folder):
    with writer:
      writer.add(file("new"), np.ones((1, 4)), np.ones((1, 2)))
      writer.compact()
    assert "new" in store.open(folder).files


CASES += [
  Case("weights", (24, 4000), weights, fuzz_work.weights, in_worker=True),
  Case("records", (20, 1500), records, fuzz_work.records, in_worker=True),
]
for kind in ("ours", *MAKE, "packed-clip"):
  inputs = functools.partial(vocabulary, kind)
  name, read = f"vocabulary-{kind}", fuzz_work.vocabulary
  CASES.append(Case(name, (8, 600), inputs, read, in_worker=True))


@CASES.each
def test_damaged_input_is_rejected_in_one_line(run, case, count):
  run(case, count)
