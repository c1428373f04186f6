"""The encoder for the mteb package: its protocol, and the run's own embeddings."""

import types

import numpy as np
import pytest
from training import trained_smoke

from configs import mac
from vtr_jax.core.errors import DataError
from vtr_jax.data.examples import read_clip
from vtr_jax.data.video.decode import decode
from vtr_jax.eval import protocols
from vtr_jax.inference import embed_split
from vtr_jax.inference.mteb import Encoder


class Decoder:
  """What mteb uses of torchcodec's VideoDecoder, with NumPy for torch."""

  def __init__(self, data):
    self._frames = decode(data).transpose(0, 3, 1, 2)

  def __len__(self):
    return len(self._frames)

  def get_frames_at(self, indices):
    return types.SimpleNamespace(data=self._frames[indices])


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
  """(directory, our embeddings of its test split)."""
  directory = trained_smoke(mac, data_dir, tmp_path_factory.mktemp("run"))
  return directory, embed_split.embed(directory, protocols.get("custom"))[0]


@pytest.fixture(scope="module")
def encoder(run):
  return Encoder(str(run[0]), None, device="cpu")


def batches(key, values, size):
  return [{key: values[i : i + size]} for i in range(0, len(values), size)]


@pytest.mark.nightly  # by day: the model's own, test_model.py
def test_embeddings_equal_those_of_the_run(run, encoder):
  """Frames are resized by another library, so edges differ; texts are equal."""
  _, ours = run
  c = encoder._model.config
  source = c.data.open("test")
  videos = [Decoder(source[i]["video"]) for i in range(len(source))]
  videos_embedded = encoder.encode(
    batches("video", videos, 5), hf_split="test", batch_size=5
  )
  assert videos_embedded.shape == ours.video.shape
  np.testing.assert_allclose(np.linalg.norm(videos_embedded, axis=1), 1, atol=1e-5)
  for i in (0, 7):
    clip = read_clip(source[i]["video"], c.clip, c.data, None)
    difference = np.abs(encoder._clip(videos[i]).astype(int) - clip)
    assert (
      difference.mean() < 3
    )  # of 255; frames 3 positions off differ by 3.7 and more
    assert np.abs(encoder._clip(videos[i + 1]).astype(int) - clip).mean() > 4
  texts = encoder.encode(batches("text", ours.texts, 7), hf_split="test")
  np.testing.assert_allclose(texts, ours.text, atol=1e-5)
  arrays = [video._frames for video in videos[:2]]
  again = encoder.encode([dict(video=arrays)])
  np.testing.assert_allclose(again, videos_embedded[:2], atol=1e-5)
  square = encoder.similarity(texts, videos_embedded)
  pairs = encoder.similarity_pairwise(texts[:3], videos_embedded[:3])
  np.testing.assert_allclose(np.diag(square[:3, :3]), pairs, atol=1e-6)


def test_batches_without_video_or_text_are_rejected(encoder):
  with pytest.raises(DataError, match=r"a batch of \['audio'\]"):
    encoder.encode([dict(audio=[0])])
  with pytest.raises(DataError, match="empty caption"):
    encoder.encode([dict(text=["a red bar", " "])])


def test_the_encoder_implements_mteb_s_protocol(encoder):
  """If the package is installed."""
  models = pytest.importorskip("mteb.models", reason="mteb is not installed")
  assert isinstance(encoder, models.EncoderProtocol)
  meta = encoder.mteb_model_meta
  assert meta.name == "vtr_jax/mac-smoke"
  assert meta.modalities == ["text", "video"]
