"""Small videos and prepared data sets for tests."""

import contextlib
import io
import tempfile
from pathlib import Path

import av
import flax.linen as nn
import numpy as np
import sentencepiece
import tensorflow_datasets as tfds

from vtr_jax.core.batch import ClipSpec, MaskSpec, TextSpec
from vtr_jax.data import loader, sources
from vtr_jax.data.tokenizers import base as tokenizers
from vtr_jax.models.layers import Compute
from vtr_jax.objectives.base import Objective

CLIP = ClipSpec(4, 32, (2, 16, 16), (0.5,) * 3, (0.5,) * 3)
TEXT = TextSpec(16, 64, 3)
MASK = MaskSpec("tube", 0.5, "replace", 0.5, False)
COMPUTE = Compute("float32", "xla", False, "none")
WORDS = "a red blue green big small ball box moves left right up down slowly"


def objective(**predict) -> Objective:
  """An objective that only predicts."""

  def missing(*_):
    raise NotImplementedError

  return Objective(
    model=nn.Module(),
    mask=MASK,
    compute=COMPUTE,
    init=missing,
    forward=missing,
    terms=(),
    pairs=(),
    predict=predict,
  )


# With more threads, the same frames give other bytes once in a hundred times.
X264 = {"g": "6", "crf": "10", "threads": "1"}


def mp4(
  frames: int = 24,
  height: int = 96,
  width: int = 96,
  fps: int = 8,
  pix_fmt: str = "yuv420p",
  seed: int = 0,
  movflags: str = "default_base_moof",
) -> bytes:
  """An H.264 file; the brightness of frame i is `level(i)`, the left half darker."""
  rng = np.random.default_rng(seed)
  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "clip.mp4"
    with av.open(path, "w", format="mp4", options={"movflags": movflags}) as out:
      stream = out.add_stream("libx264", rate=fps, options=X264)
      stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
      out.start_encoding()
      tint = rng.integers(0, 20, 3)
      for i in range(frames):
        image = np.zeros((height, width, 3), np.uint8)
        image[:] = level(i) + tint
        image[:, : width // 2] //= 2
        out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
      out.mux(stream.encode())
    return path.read_bytes()


def level(frame: int) -> int:
  """Brightness of the right half of frame `frame` of `mp4`; it identifies the frame."""
  return 40 + 8 * (frame % 24)


def record(name: str, video: bytes | None = None, captions=("a red ball",)) -> dict:
  """A record as `sources.features()`."""
  video = mp4() if video is None else video
  return dict(id=name, video=video, captions=list(captions), label="")


def records(count: int, **kwargs) -> list[dict]:
  """Records that differ in tint, with one to three captions each."""
  words = WORDS.split()
  return [
    record(
      f"clip{i}",
      mp4(seed=i, **kwargs),
      [f"a {words[(i + j) % len(words)]} ball" for j in range(1 + i % 3)],
    )
    for i in range(count)
  ]


class Clips(tfds.core.GeneratorBasedBuilder):
  """Writes given records, in the given order."""

  VERSION = tfds.core.Version("1.0.0")
  url_infos = None  # else TFDS looks for a package that it does not depend on

  def __init__(self, splits, record_features, **kwargs):
    self._splits = splits
    self._features = record_features
    super().__init__(file_format="array_record", **kwargs)

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self, features=self._features, disable_shuffling=True
    )

  def _split_generators(self, dl_manager):
    return {k: self._generate_examples(v) for k, v in self._splits.items()}

  def _generate_examples(self, rows):
    yield from enumerate(rows)


def prepare(
  root: Path,
  splits: dict[str, list[dict]],
  features: tfds.features.FeaturesDict | None = None,
) -> str:
  """Writes the prepared TFDS data set `clips`, and returns its directory."""
  builder = Clips(splits, features or sources.features(), data_dir=root)
  with contextlib.redirect_stdout(io.StringIO()):
    builder.download_and_prepare()
  return str(builder.data_dir)


NAME = "clips"  # what TFDS calls the data set of `prepare`


def tokenizer(folder: Path) -> tokenizers.SentencePiece:
  """A tiny SentencePiece model of about 40 pieces, trained on the spot."""
  return tokenizers.SentencePiece(str(train_pieces(folder / "tokenizer.model")))


def train_pieces(path: Path, symbols=("<cls>", "<mask>")) -> Path:
  """Trains a SentencePiece model with pad 0, unk 1 and then `symbols`."""
  words = io.StringIO("\n".join([WORDS] * 20))
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.Train(
    sentence_iterator=words,
    model_writer=model,
    vocab_size=48,
    hard_vocab_limit=False,
    pad_id=0,
    pad_piece="<pad>",
    unk_id=1,
    bos_id=-1,
    eos_id=-1,
    control_symbols=list(symbols),
    minloglevel=2,
  )
  path.write_bytes(model.getvalue())
  return path


def config(root, **changes) -> loader.DataConfig:
  """A small `data` section for what `prepare` wrote under `root`."""
  return loader.DataConfig(
    **dict(
      name=NAME,
      dir=str(root),
      split="train",
      sampling="segments",
      stride=1,
      crop="multi_scale",
      crop_scales=(1.0, 0.75),
      flip=True,
      num_workers=0,
      max_bad_fraction=0.1,
      curriculum=(),
      mixture=(),
      decode_timeout=30.0,
    )
    | changes
  )


def take(root, tokenizer, count, *, data=None, batch_size=8, seed=0, **kwargs):
  """The first `count` training batches."""
  data = data or config(root)
  with loader.train_batches(
    data, CLIP, TEXT, MASK, tokenizer, batch_size=batch_size, seed=seed, **kwargs
  ) as batches:
    return [next(batches) for _ in range(count)]


def assert_same(left, right):
  """Asserts that two lists of batches are bitwise equal."""
  assert len(left) == len(right)
  for a, b in zip(left, right, strict=True):
    assert a.keys() == b.keys()
    for key in a:
      np.testing.assert_array_equal(a[key], b[key], err_msg=key)
