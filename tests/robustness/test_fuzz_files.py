"""Whatever is in a file of weights, words, records or an index: a result, or a line."""

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
import pytest
import safetensors.numpy
from array_record.python import array_record_module
from fuzz import replaced
from fuzz_formats import PICKLES
from index_cases import HEADER, file
from tokenizer_cases import MAKE

from vtr_jax.search import store
from vtr_jax.search.writer import Writer


@pytest.fixture(scope="module")
def worker():
  with fuzz.Worker() as running:
    yield running


STATE = dict(a=np.arange(6, dtype="f").reshape(2, 3), half=np.ones(4, "f2"))


def weights(tmp_path):
  """Whole files of both kinds, and what is in the second."""
  safetensors.numpy.save_file(STATE, tmp_path / "a")
  pth.write(tmp_path / "b", dict(epoch=3, state_dict=STATE))
  with zipfile.ZipFile(tmp_path / "b") as archive:
    program = archive.read("archive/data.pkl")
  return (tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes(), program


def zipped(program):
  out = io.BytesIO()
  with zipfile.ZipFile(out, "w") as archive:
    archive.writestr("archive/data.pkl", program)
    for i, array in enumerate(STATE.values()):
      archive.writestr(f"archive/data/{i}", array.tobytes())
  return out.getvalue()


def header(data, rng):
  """A safetensors file whose JSON is mutated, and its length right."""
  size = int.from_bytes(data[:8], "little")
  told = fuzz.mutate(json.loads(data[8 : 8 + size]), rng)
  return len(told).to_bytes(8, "little") + told + data[8 + size :]


@fuzz.sized(24, 4000)
def test_weights(record_property, tmp_path, worker, count):
  flat, torch, program = weights(tmp_path)

  def make(rng):
    kind = rng.randrange(4)
    if kind == 0:
      return header(flat, rng)
    if kind == 1:
      return zipped(fuzz.mutate(program, rng))
    return fuzz.mutate((flat, torch)[kind - 2], rng)

  def check(data):
    (tmp_path / "c").write_bytes(data)
    worker(fuzz_work.weights, str(tmp_path / "c"))

  examples = map(zipped, PICKLES)
  fuzz.explore(
    record_property, "weights", count, fuzz.from_random(make), check, *examples
  )


VOCABULARIES = ("ours", *MAKE, "packed clip")


@pytest.mark.parametrize("kind", VOCABULARIES)
@fuzz.sized(8, 600)
def test_vocabularies(record_property, tmp_path, worker, kind, count):
  content = vocabulary(kind, tmp_path)

  def make(rng):
    return fuzz.mutate(content, rng), [fuzz.text(rng), "a red ball", fuzz.text(rng)]

  def check(drawn):
    data, captions = drawn
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    worker(fuzz_work.vocabulary, str(path), captions)

  whole = [(content, [text]) for text in ("\ud800", "\0", "a" * 100_000)]
  fuzz.explore(
    record_property, f"words {kind}", count, fuzz.from_random(make), check, *whole
  )


def vocabulary(kind, folder):
  if kind == "ours":
    return clips.train_pieces(folder / "a.model").read_bytes()
  data = pathlib.Path(MAKE[kind.removeprefix("packed ")](folder)).read_bytes()
  return gzip.compress(data, mtime=0) if kind.startswith("packed") else data


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  rows = [clips.record(f"clip{i}", b"video", ["größe", f"take {i}"]) for i in range(4)]
  return clips.prepare(tmp_path_factory.mktemp("data"), dict(train=rows))


@fuzz.sized(20, 1500)
def test_records(record_property, tmp_path, worker, prepared, count):
  """Metadata, shards, and whole shards of records that are none."""
  place = tmp_path / "1.0.0"
  place.mkdir()
  files = {}
  for path in sorted(pathlib.Path(prepared).iterdir()):
    files[path.name] = path.read_bytes()
    (place / path.name).write_bytes(files[path.name])
  (shard,) = (name for name in files if "array_record" in name)
  examples = array_record_module.ArrayRecordReader(str(place / shard)).read_all()

  def make(rng):
    name = rng.choice([*files, shard, shard])
    if name != shard:
      return name, fuzz.mutate(json.loads(files[name]), rng)
    if rng.random() < 0.3:
      return name, fuzz.mutate(files[name], rng)
    changed = list(examples)
    number = rng.randrange(len(changed))
    changed[number] = fuzz.mutate(changed[number], rng)
    return name, changed

  def check(drawn):
    name, data = drawn
    if isinstance(data, list):
      data = written(tmp_path / "shard", data)
    with replaced(place / name, data):
      worker(fuzz_work.records, str(place))

  fuzz.explore(record_property, "records", count, fuzz.from_random(make), check)


def written(path, examples):
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
  return fuzz.dumped(manifest)


def resealed(manifest, header=None, **changes):
  header = manifest["header"] | (header or {})
  return sealed(manifest | changes | dict(header=header))


def journal(data, manifest):
  """Lines, and a manifest with their size and checksum."""
  sizes = manifest["sizes"] | dict(files=len(data))
  sums = manifest["checksums"] | dict(files=zlib.crc32(data))
  changed = manifest | dict(sizes=sizes, checksums=sums)
  return {"files-1.jsonl": data, "manifest.json": sealed(changed)}


@fuzz.sized(30, 3000)
def test_index(record_property, tmp_path, count):
  """Read, asked for its clips, and written to; also where all checksums are right."""
  place = tmp_path / "index"
  with Writer(place, HEADER) as writer:
    for name, rows in (("a/ü.mp4", 3), ("b.mp4", 2)):
      writer.add(file(name), np.ones((rows, 4)), np.ones((rows, 2)))
    writer.note(file("c.mp4", error="no video"))
  whole = {path.name: path.read_bytes() for path in place.iterdir()}
  manifest = json.loads(whole["manifest.json"])
  lines = fuzz.Lines(map(json.loads, whole["files-1.jsonl"].splitlines()))

  def make(rng):
    kind = rng.randrange(4)
    if kind == 0:
      return {"manifest.json": sealed(fuzz.edited(manifest, rng, rng.randint(1, 3)))}
    if kind == 1:
      return journal(fuzz.mutate(lines, rng) + b"\n", manifest)
    name = rng.choice(sorted(whole))
    return {name: fuzz.mutate(whole[name], rng)}

  def check(changed):
    for path in place.iterdir():
      path.unlink()
    for name, data in (whole | changed).items():
      (place / name).write_bytes(data)
    fuzz.outcome(lambda: store.header(place), place)
    if index := fuzz.outcome(lambda: store.open(place), place):
      for row in range(index.rows + 1):
        if found := fuzz.outcome(lambda r=row: index.owner(r), place):
          index.path(found)
          assert found.row <= row < found.row + found.clips
      assert index.under("a").shape == (index.rows,)
    if opened := fuzz.outcome(lambda: Writer(place, HEADER), place):
      with opened:
        opened.add(file("new"), np.ones((1, 4)), np.ones((1, 2)))
        opened.compact()
      assert "new" in store.open(place).files

  twice = fuzz.dumped(
    fuzz.Lines([["a", 1, 2, "", 0, 3, ""], ["b", 1, 2, "", 1, 2, ""]])
  )
  examples = (
    journal(twice + b"\n", manifest),
    journal(twice, manifest),  # the last line has no end
    journal(b"[" * 100_000 + b"\n", manifest),
    {"manifest.json": resealed(manifest, generation=7)},
    {"manifest.json": resealed(manifest, rows=0, header={"dim": 1 << 70})},
  )
  fuzz.explore(
    record_property, "index", count, fuzz.from_random(make), check, *examples
  )
