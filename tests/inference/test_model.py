"""The Python API: vtr_jax.load, and what a model does with files and arrays."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from runtime_types import unchecked
from training import trained_smoke

import vtr_jax
from configs import mac, simvtp
from vtr_jax.core.errors import CheckpointError, ConfigError, DataError
from vtr_jax.data.video.decode import decode
from vtr_jax.eval import protocols
from vtr_jax.inference import embed_split


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
  """(model, our evaluation's embeddings, its records, its directory)."""
  place = trained_smoke(mac, data_dir, tmp_path_factory.mktemp("run"))
  model = vtr_jax.load(place)
  found, _ = embed_split.embed(place, protocols.get("custom"))
  source = model.config.data.open("test")
  return model, found, [source[i] for i in range(len(source))], place


def test_embeddings_equal_those_of_the_evaluation(run, tmp_path):
  """Of paths and of bytes, of any number of them, in order."""
  model, found, records, _ = run
  paths = []
  for i, record in enumerate(records[:19]):
    paths.append(tmp_path / f"odd näme {i}.mp4")
    paths[-1].write_bytes(record["video"])
  ours = model.embed_video(paths)
  assert ours.shape == (19, model.dim)
  assert ours.dtype == np.float32
  np.testing.assert_allclose(ours, found.video[:19], atol=1e-5)
  mixed = model.embed_video([records[3]["video"], str(paths[5])])
  np.testing.assert_allclose(mixed, found.video[[3, 5]], atol=1e-5)
  texts = model.embed_text(found.texts[:21])
  np.testing.assert_allclose(texts, found.text[:21], atol=1e-5)
  cosines = model.similarity(found.texts[:2], paths[:3])
  np.testing.assert_allclose(cosines, texts[:2] @ ours[:3].T, atol=1e-5)


def test_frames_may_have_any_size_and_number(run):
  model, found, records, _ = run
  frames = decode(records[0]["video"])
  seen = model.embed_video([frames, frames[:1], frames[:, :, : frames.shape[2] // 2]])
  np.testing.assert_allclose(seen[0], found.video[0], atol=0.02)
  assert abs(seen[0] - seen[1]).max() > 1e-3
  np.testing.assert_allclose(np.linalg.norm(seen, axis=1), 1, atol=1e-5)


def test_rows_of_a_batch_are_read_while_the_one_before_is_computed(run):
  """Batches are in order, none is larger than eval_batch_size, few have padding."""
  model, events = run[0], []

  class Function:
    def start(self, params, batch):
      events.append(("start", len(batch["x"])))
      return lambda: (events.append("result"), batch["x"])[1]

  def rows():
    for i in range(40):
      if i % 16 == 15:
        events.append("read")
      yield dict(x=np.float32(i))

  assert model.config.eval_batch_size == 16
  found = model._rows(Function(), rows())
  assert found.tolist() == list(range(40))
  assert events == [
    *("read", ("start", 16), "read", ("start", 16), "result"),
    *("result", ("start", 8), "result"),
  ]
  odd = dataclasses.replace(
    model, config=dataclasses.replace(model.config, eval_batch_size=12)
  )
  events.clear()
  assert odd._rows(Function(), rows()).tolist() == list(range(40))
  sizes = [event[1] for event in events if event[0] == "start"]
  assert sizes == [12, 12, 12, 4]


def test_empty_lists_give_empty_embeddings(run):
  model = run[0]
  assert model.embed_video([]).shape == (0, model.dim)
  assert model.embed_text([]).shape == (0, model.dim)


def test_inputs_that_cannot_be_embedded_are_named(run, tmp_path):
  model = run[0]
  bad = tmp_path / "bad.mp4"
  bad.write_bytes(b"no video")
  for videos, words in (
    ([bad], r"bad\.mp4: not a video"),
    ([tmp_path / "absent.mp4"], r"absent\.mp4: No such file"),
    ([np.zeros((2, 8, 8), np.uint8)], r"video 0: uint8 \(2, 8, 8\) is not uint8"),
    ([np.zeros((0, 8, 8, 3), np.uint8)], "video 0: no frames"),
  ):
    with unchecked(), pytest.raises(DataError, match=words):
      model.embed_video(videos)
  with pytest.raises(DataError, match=r"1 of 2 texts .* text 1 \(' ': empty caption"):
    model.embed_text(["a red bar", " "])
  with unchecked(), pytest.raises(DataError, match="text 0: 7 is not a string"):
    model.embed_text([7])
  with pytest.raises(CheckpointError, match="not a run"):
    vtr_jax.load(str(tmp_path))


def test_a_model_s_id_identifies_its_parameters(run, data_dir, tmp_path):
  model, _, records, place = run
  assert model.id == vtr_jax.load(place).id
  other = vtr_jax.load(trained_smoke(simvtp, data_dir, tmp_path))
  assert model.id != other.id
  assert model.id.startswith("mac-smoke@2-")
  # And only a model with a matching head can be asked for it.
  clips = [other.clip(record["video"]) for record in records[:3]]
  scores = other.match_logits(["a red bar"] * 3, clips)
  assert scores.shape == (3,)
  with pytest.raises(ConfigError, match=r"match_logits: .* no matching head"):
    model.match_logits(["a red bar"], clips[:1])


def test_a_model_searches_an_index(run, tmp_path):
  model, found, records, place = run
  (tmp_path / "videos").mkdir()
  for i, record in enumerate(records[:6]):
    (tmp_path / "videos" / f"{i}.mp4").write_bytes(record["video"])
  out = str(tmp_path / "index")
  done = subprocess.run(
    [
      *(sys.executable, "-m", "vtr_jax.search", "index", str(tmp_path / "videos")),
      *(f"--checkpoint={place}", f"--out={out}"),
    ],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  text = found.texts[0]
  hits = model.search(out, text, top=6)
  order = np.argsort(-(model.embed_text([text]) @ found.video[:6].T)[0])
  assert [hit.name for hit in hits] == [f"{i}.mp4" for i in order]
  same = model.search(out, image=records[2]["video"], top=1)
  assert same[0].name == "2.mp4"
