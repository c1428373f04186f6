"""Whatever is in an annotation file, a config or a list: a result, or one line."""

import io
import math
import os

import fuzz
import numpy as np
import pytest
from fuzz import Lines, replaced, written
from fuzz_formats import EXAMPLES, FOUND, UNCHANGED

from vtr_jax.data.quarantine import Quarantine
from vtr_jax.eval import embeddings, multiple_choice
from vtr_jax.prepare.formats import base
from vtr_jax.prepare.options import Options, digest, unfit
from vtr_jax.train import writer


@pytest.mark.parametrize(("name", "variant"), EXAMPLES)
@fuzz.sized(12, 1000)
def test_annotations(record_property, tmp_path, name, variant, count):
  files = EXAMPLES[name, variant]
  for file, content in files.items():
    (tmp_path / file).write_bytes(written(content))
  kind = "" if variant == "plain" else variant
  request = base.Request(str(tmp_path), "", kind, allow_pickle=True)

  def check(choice):
    file, data = choice
    with replaced(tmp_path / file, data):
      items = fuzz.outcome(lambda: base.open(name, request), tmp_path)
    for item in items or ():
      check_item(item, str(tmp_path))

  choices = one_file({k: v for k, v in files.items() if not k.endswith(UNCHANGED)})
  found = FOUND.get((name, variant), ())
  fuzz.explore(
    record_property, f"{name} {variant}".strip(), count, choices, check, *found
  )


def check_item(item, source):
  """What `prepare` may rely on."""
  path = os.path.abspath(item.media.path)
  assert os.path.commonpath([source, path]) == source
  for text in (item.id, item.split, item.label, *item.captions):
    text.encode()
  assert item.id
  assert all(text.strip() for text in item.captions)
  if item.start is not None:
    assert 0 <= item.start < item.end < math.inf
  unfit(item, Options())
  digest(item, b"")


def test_every_format_is_mutated():
  assert sorted({name for name, _ in EXAMPLES}) == base.kinds()


CANDIDATES = (
  [
    {"video": "a/v0.mp4", "caption": ["one", "two"], "answer": 1},
    {"video": "v1", "caption": ["three"], "answer": 0},
  ],
  Lines([dict(clip_name=f"v{i}", options=["a", "b"], answer=i) for i in (0, 1)]),
)


@fuzz.sized(12, 3000)
def test_candidates(record_property, tmp_path, count):
  path = tmp_path / "candidates.json"

  def check(data):
    path.write_bytes(data)
    call = lambda: multiple_choice.read_candidates(str(path), ["v0", "v1"])
    if found := fuzz.outcome(call, path):
      texts, owner, right = found
      assert len(texts) == len(owner) == len(right)
      assert [right[owner == i].sum() for i in (0, 1)] == [1, 1]

  found = (b"[" * 99_999, b"[" + b"9" * 5000 + b"]")
  strategy = fuzz.mutated(*CANDIDATES)
  fuzz.explore(record_property, "candidates", count, strategy, check, *found)


def npy(values):
  out = io.BytesIO()
  np.save(out, values)
  return out.getvalue()


EMBEDDINGS = {
  "videos.jsonl": Lines([dict(id="v0", label="cat"), dict(id="v1")]),
  "texts.jsonl": Lines([dict(id="v0", caption="a", right=True), dict(id="v1")]),
  "bank.jsonl": Lines([dict(id="v9")]),
  "manifest.json": dict(model="x"),
  "video.npy": npy(np.eye(2, 3, dtype="f")),
  "text.npy": npy(np.eye(2, 3, dtype="d")),
  "bank.npy": npy(np.ones((1, 3), "f2")),
}


@fuzz.sized(15, 4000)
def test_embeddings(record_property, tmp_path, count):
  for file, content in EMBEDDINGS.items():
    (tmp_path / file).write_bytes(written(content))

  def check(choice):
    file, data = choice
    with replaced(tmp_path / file, data):
      found = fuzz.outcome(lambda: embeddings.load(tmp_path), tmp_path)
    if found:
      assert found.video.shape == (len(found.ids), 3)
      assert found.text.shape == (len(found.texts), 3)
      np.testing.assert_allclose(np.linalg.norm(found.video, axis=1), 1, rtol=1e-5)
      assert len(embeddings.fingerprint(found)) == 16

  large = npy(np.eye(2, 3)).replace(b"3), }" + b" " * 11, b"399999999999), }")
  fuzz.explore(
    record_property,
    "embeddings",
    count,
    one_file(EMBEDDINGS),
    check,
    ("video.npy", large),
    ("video.npy", b""),
    ("video.npy", npy(np.full((2, 3), 1e300))),
    ("manifest.json", b"[" * 99_999),
  )


METRICS = Lines(
  [{"step": 1, "loss/total": 2.5}, {"step": 2, "loss/total": 1}, {"step": 2, "t2v": 3}]
)


@fuzz.sized(8, 1500)
def test_metrics(record_property, tmp_path, count):
  """A run goes on with its numbers, whatever a crash has left of them."""
  path = tmp_path / "metrics.jsonl"

  def check(data):
    path.write_bytes(data)
    with fuzz.bounded():
      out = writer.Writer(tmp_path, 2)
    out.scalars(3, {"x": 1.0})
    out.close()
    assert writer.read(path)[-1] == {"step": 3, "x": 1.0}

  found = (b"\xff\n", b"3\n", b"{}\n", b"[" * 99_999)
  fuzz.explore(record_property, "metrics", count, fuzz.mutated(METRICS), check, *found)


BAD = Lines([dict(record=i, problem=f"v{i}: empty", step=3) for i in (4, 7)])


@fuzz.sized(8, 1500)
def test_quarantine(record_property, tmp_path, count):
  path = tmp_path / "quarantine.jsonl"
  batch = dict(problem=np.array(["v4: x", ""]), record=np.array([4, 5]))

  def check(data):
    path.write_bytes(data + b"\n")
    found = fuzz.outcome(lambda: Quarantine(str(path), 0.5), path)
    if found:
      found.add(batch, 9)
      assert Quarantine(str(path), 0.5)

  found = (b"\xff", b"3", b"{}", b'{"record": []}', b"[" * 99_999)
  fuzz.explore(record_property, "quarantine", count, fuzz.mutated(BAD), check, *found)


def one_file(files):
  """Strategy of (name, bytes) of one of the files, mutated."""
  names = sorted(files)

  def make(rng):
    name = rng.choice(names)
    return name, fuzz.mutate(files[name], rng)

  return fuzz.from_random(make)
