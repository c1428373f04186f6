"""Exported functions: JAX alone computes what the model does."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from training import trained_smoke

import vtr_jax
from configs import mac, simvtp
from vtr_jax import export
from vtr_jax.core.errors import ConfigError, VtrError
from vtr_jax.inference import stablehlo

flatbuffers = pytest.importorskip("flatbuffers", reason="jax.export needs flatbuffers")

(LOADER,) = re.findall(
  r"```python\n(import .*?jax import export\n.*?)```",
  (ROOT / "docs" / "weights.md").read_text(),
  re.DOTALL,
)


@pytest.mark.parametrize(
  "file",
  [mac, pytest.param(simvtp, marks=pytest.mark.nightly)],
  ids=lambda f: f.__name__,
)
def test_the_loader_of_the_docs_embeds_without_this_package(file, data_dir, tmp_path):
  """Any number of rows, from a folder without the project, which cannot be imported."""
  run = trained_smoke(file, data_dir, tmp_path / "run")
  export.export(run, str(tmp_path / "exported"), "stablehlo")
  model = vtr_jax.load(run)
  records = model.config.data.open("test")
  clips = [model.clip(records[i]["video"]) for i in range(5)]
  texts = [records[i]["captions"][0] for i in range(3)]
  rows = list(model._token_rows(texts))
  np.savez(
    tmp_path / "inputs.npz",
    clips=np.stack(clips),
    ids=np.stack([row["text_ids"] for row in rows]),
    valid=np.stack([row["text_valid"] for row in rows]),
  )
  code = f"""import sys
sys.modules["vtr_jax"] = sys.modules["flax"] = None
{LOADER}
embed_video, embed_text = load("exported")
given = np.load("inputs.npz")
np.savez(
  "outputs.npz",
  one=embed_video(given["clips"][:1]),
  video=embed_video(given["clips"]),
  text=embed_text(given["ids"], given["valid"]),
)
"""
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=tmp_path,
    env=os.environ,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  outputs = np.load(tmp_path / "outputs.npz", allow_pickle=False)
  expected = model.embed_clips(iter(clips))
  assert outputs["video"].dtype == np.float32
  np.testing.assert_allclose(outputs["video"], expected, atol=1e-5)
  np.testing.assert_allclose(outputs["one"], expected[:1], atol=1e-5)
  np.testing.assert_allclose(outputs["text"], model.embed_text(texts), atol=1e-5)
  assert (tmp_path / "exported" / "tokenizer.model").is_file()
  with pytest.raises(ConfigError, match="exported exists; choose another name"):
    export.export(run, str(tmp_path / "exported"), "stablehlo")


def test_the_loader_of_the_docs_has_ten_lines():
  body = LOADER.partition("\ndef ")[2]
  assert len(body.strip().splitlines()) <= 10


def test_without_flatbuffers_the_cure_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "flatbuffers", None)
  with pytest.raises(VtrError, match=r"--as: stablehlo needs .*; pip install flatbuf"):
    stablehlo.check_installed()
