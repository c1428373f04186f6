"""Weights files: what is read, what is rejected, and that no code in them runs."""

import pathlib
import pickle
import zipfile

import hf_cases
import numpy as np
import pth
import pytest
from pth import Global

from vtr_jax.core.errors import WeightsError
from vtr_jax.weights import files

safetensors = pytest.importorskip("safetensors.numpy")

STATE = dict(
  a=np.arange(6, dtype="f").reshape(2, 3),
  half=np.ones(4, "f2"),
  number=np.array(7, "i8"),
  empty=np.zeros((0, 3), "f"),
)


def assert_same(found, wanted):
  assert found.keys() == wanted.keys()
  for key, x in wanted.items():
    assert found[key].dtype == x.dtype
    np.testing.assert_array_equal(found[key], x)


def test_safetensors_are_read(tmp_path):
  safetensors.save_file(STATE, tmp_path / "a.safetensors")
  assert_same(files.read(tmp_path / "a.safetensors"), STATE)


def test_npz_files_are_read_and_damaged_ones_named(tmp_path):
  """They are zip files, as PyTorch's are; pickled objects in them are rejected."""
  state = {f"params/{key}": x for key, x in STATE.items()}
  path = tmp_path / "a.npz"
  np.savez(path, **state)
  assert_same(files.read(path), state)
  whole = path.read_bytes()
  path.write_bytes(whole[: len(whole) // 2])
  with pytest.raises(WeightsError, match=r"a\.npz: damaged .*copy it again"):
    files.read(path)
  np.savez(path, a=np.array([dict()], dtype=object))
  with pytest.raises(WeightsError, match=r"a\.npz: damaged .*pickle"):
    files.read(path)


@pytest.mark.parametrize("inside", ["", "state_dict", "model", "module"])
def test_pytorch_files_are_read(inside, tmp_path):
  """Also with the other values that training programs store with their weights."""
  path = tmp_path / "a.pth"
  beside = dict(
    epoch=3,
    args=Global("argparse", "Namespace"),
    config=Global("parse_config_dist_multi", "ConfigParser", "x"),
    best=Global("numpy.core.multiarray", "scalar", Global("numpy", "dtype", "f8"), "x"),
    optimizer=dict(state={}, step=np.ones(1, "f")),
  )
  pth.write(path, beside | {inside: STATE} if inside else STATE)
  assert_same(files.read(path), STATE)


def test_pickled_parameters_are_read(tmp_path):
  """The arrays are read-only."""
  path = tmp_path / "a.pth"
  tensor = Global("torch._utils", "_rebuild_parameter", STATE["a"], True, None)
  pth.write(path, dict(w=tensor))
  assert_same(files.read(path), dict(w=STATE["a"]))
  assert not files.read(path)["w"].flags.writeable


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.skipif(not hf_cases.LIVE, reason="PyTorch is not installed")
def test_files_written_by_pytorch_are_read(tmp_path):
  import torch

  model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
  want = {k: v.numpy() for k, v in model.state_dict().items()}
  torch.save(dict(state_dict=model.state_dict()), tmp_path / "a.pth")
  assert_same(files.read(tmp_path / "a.pth"), want)
  torch.jit.script(model).save(str(tmp_path / "b.pt"))
  assert_same(files.read(tmp_path / "b.pt"), want)
  views = dict(t=torch.arange(12.0).reshape(3, 4).T, cut=torch.arange(9)[2:5])
  torch.save(views, tmp_path / "c.pt")
  assert_same(files.read(tmp_path / "c.pt"), {k: v.numpy() for k, v in views.items()})
  old = tmp_path / "old.pth"
  torch.save(views, old, _use_new_zipfile_serialization=False)
  with pytest.raises(WeightsError, match="bare pickle"):
    files.read(old)


@pytest.mark.parametrize(
  "named",
  [
    ("os", "system"),
    ("posix", "system"),
    ("builtins", "eval"),
    ("builtins", "getattr"),
    ("subprocess", "Popen"),
    ("torch.hub", "load"),
    ("numpy", "load"),
    ("torch._utils", "_import_dotted_name"),
    ("collections.OrderedDict", "fromkeys"),
  ],
)
def test_code_in_a_pickle_does_not_run(named, tmp_path):
  path, mark = tmp_path / "evil.pth", tmp_path / "mark"
  pth.write(path, dict(state_dict=STATE, x=Global(*named, f"touch {mark}")))
  with pytest.raises(
    WeightsError, match=rf"rejected: it names {named[0]}.*torch\.save"
  ):
    files.read(path)
  assert not mark.exists()


def test_objects_of_allowed_classes_are_not_instantiated(tmp_path):
  """They are represented by an inert record of ours."""
  path = tmp_path / "a.pth"
  pth.write(path, dict(x=Global("pathlib", "PosixPath", "/"), **STATE))
  assert_same(files.read(path), STATE)


def _patch(path: pathlib.Path, program: bytes) -> None:
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/data.pkl", program)
    archive.writestr("archive/data/0", bytes(16))


_text = lambda x: b"X" + len(x).to_bytes(4, "little") + x
STORAGE = (
  b"(" + _text(b"storage") + b"ctorch\nFloatStorage\n" + _text(b"0") + _text(b"cpu")
) + b"K\x04tQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE


@pytest.mark.parametrize(
  ("program", "words"),
  [
    (TENSOR + b"K\x00(K\x02t(K\x05t\x89NtR.", "outside its 4 values"),
    (TENSOR + b"J\xff\xff\xff\xff(K\x02t(K\x01t\x89NtR.", "strides"),
    (TENSOR + b"K\x00(K\x02t(\x89NtR.", "not a valid weights"),
    (TENSOR + b"K\x00(K\x02t(K\x01t\x89NtR}b.", "rejected: it changes a Tensor"),
    (STORAGE + b"}b.", "rejected: it changes a _Storage"),
    (STORAGE.replace(b"K\x04", b"K\x05") + b".", "has 16 bytes, not 20"),
    (STORAGE.replace(b"storage", b"systems") + b".", "rejected: it names a 'systems'"),
    (b"ctorch._utils\n_rebuild_tensor_v2\n}b.", "rejected: it changes a Call"),
    (TENSOR + b"K\x00(K\x03K\x03t(K\x01K\x00t\x89NtR.", "from 4 values"),
    (b"}.", "contains no tensors"),
    (b"K\x01.", "contains no tensors"),
    (b"}(", "damaged"),
    (b"", "damaged"),
    (b"garbage", "damaged|not a valid weights"),
  ],
)
def test_handcrafted_pickles_are_rejected(program, words, tmp_path):
  _patch(tmp_path / "a.pth", b"\x80\x02" + program if program else b"")
  with pytest.raises(WeightsError, match=words):
    files.read(tmp_path / "a.pth")


def test_cyclic_and_deeply_nested_dicts_are_rejected(tmp_path):
  """The search for tensors ends: {"a": itself}, 40 doublings, 60 levels."""
  path = tmp_path / "a.pth"
  item = lambda key: b"X" + len(key).to_bytes(4, "little") + key
  own = b"}q\x00" + item(b"state_dict") + b"h\x00s."
  twice = (
    b"}q\x00"
    + b"".join(
      b"}q"
      + bytes([i + 1])
      + item(b"a")
      + b"h"
      + bytes([i])
      + b"s"
      + item(b"b")
      + b"h"
      + bytes([i])
      + b"s"
      for i in range(40)
    )
    + b"."
  )
  deep = item(b"a").join([b"}"] * 60) + b"s" * 59 + b"."
  for program, words in (
    (own, "contains no tensors"),
    (twice, "deep|contains no tensors"),
    (deep, "levels deep"),
  ):
    _patch(path, b"\x80\x02" + program)
    with pytest.raises(WeightsError, match=words):
      files.read(path)


def test_damaged_files_and_other_formats_are_rejected(tmp_path):
  path = tmp_path / "a.pth"
  pth.write(path, STATE)
  whole = path.read_bytes()
  refused = lambda words: pytest.raises(WeightsError, match=words)
  for data, words in (
    (whole[:-40], "damaged"),
    (b"", "neither safetensors nor"),
    (b"just text", "neither safetensors nor"),
    (pickle.dumps(dict(a=1)), "bare pickle"),
  ):
    path.write_bytes(data)
    with refused(words):
      files.read(path)
  pth.write(path, STATE, compress=True)
  with refused("compressed"):
    files.read(path)
  with refused("cannot be read"):
    files.read(tmp_path / "absent.pth")
  with refused("cannot be read"):
    files.read(tmp_path)
  safetensors.save_file(STATE, tmp_path / "b.safetensors")
  cut = (tmp_path / "b.safetensors").read_bytes()[:-3]
  (tmp_path / "b.safetensors").write_bytes(cut)
  with refused("damaged"):
    files.read(tmp_path / "b.safetensors")


def test_a_changed_byte_gives_an_error_or_arrays(tmp_path):
  """500 files with one byte changed: never anything but arrays or one line."""
  path = tmp_path / "a.pth"
  pth.write(path, dict(state_dict=STATE, epoch=3))
  whole, rng = path.read_bytes(), np.random.default_rng(0)
  refused = 0
  for _ in range(500):
    data = bytearray(whole)
    data[rng.integers(len(data))] = rng.integers(256)
    path.write_bytes(data)
    try:
      assert all(isinstance(x, np.ndarray) for x in files.read(path).values())
    except WeightsError:
      refused += 1
  assert 50 < refused < 500
