"""Paths as users write them, in flags, in configs and from Python."""

import os
import pathlib
import unicodedata

import pytest
from conftest import run_main

from vtr_jax.core import paths
from vtr_jax.core.errors import ConfigError
from vtr_jax.inference import load as load_lib
from vtr_jax.train import setup

HOME = os.path.expanduser("~")


@pytest.mark.parametrize(
  ("given", "expected"),
  [
    ("~", HOME),
    ("~/runs/a", f"{HOME}/runs/a"),
    ("vit:~/v.pth,bert:~/b,c", f"vit:{HOME}/v.pth,bert:{HOME}/b,c"),
    ("runs/~/a", "runs/~/a"),
    ("~nobody-of-that-name/a", "~nobody-of-that-name/a"),
    ("C:/a", "C:/a"),
    ("", ""),
  ],
)
def test_home_directories_are_expanded(given, expected):
  assert paths.local(given, "--workdir") == expected


@pytest.mark.parametrize("address", ["gs://b/run", "s3://b", "hdfs://h/x", "https://a"])
def test_addresses_are_no_paths(address):
  with pytest.raises(ConfigError, match=rf"^--out: {address}: not a path; copy it"):
    paths.local(address, "--out")
  if address != "gs://b/run":
    with pytest.raises(ConfigError, match=rf"^--out: {address}: not a path; copy it"):
      paths.local(address, "--out", buckets=True)
  with pytest.raises(ConfigError, match="not a path"):
    paths.local(f"runs/a,clip:{address}", "config.init_from")
  with pytest.raises(ConfigError, match=r"give the path alone, /data/x$"):
    paths.local("file:///data/x", "--out")


def test_buckets_are_read_where_that_is_said_and_the_package_is_there(monkeypatch):
  there = lambda name: name == "gcsfs"
  monkeypatch.setattr(paths.importlib.util, "find_spec", there)
  for url in ("gs://bucket", "gs://my-bucket.x/run/1", "gs://bucket/run/"):
    assert paths.local(url, "--workdir", buckets=True) == url
    assert paths.is_bucket(url)
  for wrong in ("gs://", "gs:///run", "gs://Bucket/run", "gs://bucket//run"):
    with pytest.raises(ConfigError, match="not a path"):
      paths.local(wrong, "--workdir", buckets=True)
  monkeypatch.setattr(paths.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(
    ConfigError, match=r"^--workdir: gs://b1/run: needs a package; pip install "
  ):
    paths.local("gs://b1/run", "--workdir", buckets=True)
  assert not paths.is_bucket("runs/gs")
  assert paths.absolute(paths.anywhere("runs")) == pathlib.Path("runs").absolute()


def test_flags_that_are_paths_are_read_as_such_and_nothing_else_is():
  names = frozenset({"out", "checkpoint"})
  given = ["main", "index", "~/v", "--out=~/i", "--checkpoint", "~/r", "--a", "--b=~/c"]
  assert paths.arguments(given, names) == [
    *("main", "index", "~/v", f"--out={HOME}/i", "--checkpoint", f"{HOME}/r"),
    *("--a", "--b=~/c"),
  ]
  texts = ["main", "query", "I", "http://a.b is on screen", "--texts=http://a.b"]
  assert paths.arguments(texts, names) == texts
  with pytest.raises(ConfigError, match=r"^--checkpoint: s3://b: "):
    paths.arguments(["main", "--checkpoint", "s3://b"], names)


@pytest.mark.parametrize(
  ("module", "flag"),
  [
    ("vtr_jax.main", "--workdir=s3://bucket/run"),
    ("vtr_jax.study", "--workdir=gs://bucket/run"),
    ("vtr_jax.main", "--config.data.dir=s3://bucket/data"),
    ("vtr_jax.prepare", "--out=gs://bucket/data"),
  ],
)
def test_a_command_with_an_address_ends_before_any_work(module, flag, tmp_path):
  done = run_main(flag, "--config=configs/mac.py:smoke", module=module)
  (line,) = done.stderr.splitlines()
  name, _, address = flag.partition("=")
  assert done.returncode == 2
  assert line.startswith(f"ConfigError: {name}: {address}: not a path; copy it")


def test_the_keys_of_a_config_and_arguments_of_python_are_paths_too(smoke, tmp_path):
  for key in (("data", "dir"), ("tokenizer",), ("init_from",)):
    values = dict(smoke, data=dict(smoke["data"]))
    section = values["data"] if len(key) == 2 else values
    section[key[-1]] = "s3://bucket/x"
    with pytest.raises(ConfigError, match=rf"^config\.{'.'.join(key)}: s3://bucket/x"):
      setup.build(values, tmp_path)
  with pytest.raises(ConfigError, match=r"^--workdir: s3://bucket/run"):
    setup.build(smoke, "s3://bucket/run")
  with pytest.raises(ConfigError, match=r"^directory: s3://bucket/run"):
    load_lib.load("s3://bucket/run")
  read = paths.of_config(dict(data=dict(dir="~/d"), tokenizer="~/t", init_from=""))
  assert read == dict(data=dict(dir=f"{HOME}/d"), tokenizer=f"{HOME}/t", init_from="")


def test_the_nearest_name_is_that_of_the_folder_which_exists(tmp_path):
  (tmp_path / "Holiday 2024" / "inner").mkdir(parents=True)
  accented = unicodedata.normalize("NFD", "café.mp4")
  (tmp_path / accented).touch()
  hint = lambda name: paths.near(tmp_path / name)
  assert hint("holiday 2024") == f"; did you mean {str(tmp_path / 'Holiday 2024')!r}?"
  assert hint("Holiday_2024/inner/x.mp4") == hint("holiday 2024")
  assert hint(unicodedata.normalize("NFC", "Café.mp4")) == (
    f"; did you mean {str(tmp_path / accented)!r}?"
  )
  assert hint("unlike anything") == ""
  assert hint("Holiday 2024") == ""
  (tmp_path / "link.mp4").symlink_to(tmp_path / "gone.mp4")
  assert hint("link.mp4") == "; it is a link to a file that does not exist"
  assert paths.near(pathlib.Path("/")) == ""
  (tmp_path / "clip 07.mp4").touch()  # of a series, another one is not meant
  assert hint("clip 08.mp4") == ""
  assert "clip 07.mp4" in hint("clip 7.mp4")
  assert "clip 07.mp4" in hint("clip_08.mp4")


def test_the_nearest_of_many_names_is_found_without_comparing_all(
  tmp_path, monkeypatch
):
  for number in range(2000):
    (tmp_path / f"clip {number:04d}, a holiday.mp4").touch()
  compared = []
  close = paths.difflib.get_close_matches

  def counted(name, names, **how):
    compared.append(len(names))
    return close(name, names, **how)

  monkeypatch.setattr(paths.difflib, "get_close_matches", counted)
  for name in ("clpi 0777, a holiday.mp4", "CLIP 0777, a holiday.mkv"):
    found = paths.near(tmp_path / name)
    assert found == f"; did you mean {str(tmp_path / 'clip 0777, a holiday.mp4')!r}?"
  assert max(compared) <= 4 * paths._COMPARED
  (tmp_path / "another.mp4").touch()  # a newer listing is read
  assert "another.mp4" in paths.near(tmp_path / "anotehr.mp4")
