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

DOCS = (ROOT / "docs" / "weights.md").read_text().partition("## JAX alone")[2]
LOADER, PARAMS = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)


@pytest.mark.parametrize(
  "file",
  [mac, pytest.param(simvtp, marks=pytest.mark.nightly)],
  ids=lambda f: f.__name__,
)
def test_the_loaders_of_the_docs_embed_without_this_package(
  file, data_dir, tmp_path, monkeypatch
):
  """Any number of rows, from a folder without the project, which cannot be imported.

  With the parameters inside, one file per function is all there is.
  """
  run = trained_smoke(file, data_dir, tmp_path / "run")
  export.export(run, str(tmp_path / "functions"), "stablehlo")
  export.export(run, str(tmp_path / "inside"), "stablehlo", params_inside=True)
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
inside = load("inside/embed_video.bin"), load("inside/embed_text.bin")
{PARAMS}
outside = embed_video, functools.partial(load("functions/embed_text.bin"), params)
given = np.load("inputs.npz")
for name, (embed_video, embed_text) in dict(inside=inside, outside=outside).items():
  np.savez(
    f"{{name}}.npz",
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
  expected = model.embed_clips(iter(clips))
  for name in ("inside", "outside"):
    outputs = np.load(tmp_path / f"{name}.npz", allow_pickle=False)
    assert outputs["video"].dtype == np.float32
    np.testing.assert_allclose(outputs["video"], expected, atol=1e-5)
    np.testing.assert_allclose(outputs["one"], expected[:1], atol=1e-5)
    np.testing.assert_allclose(outputs["text"], model.embed_text(texts), atol=1e-5)
  functions = {"embed_video.bin", "embed_text.bin", "tokenizer.model"}
  assert {p.name for p in (tmp_path / "inside").iterdir()} == functions
  assert {p.name for p in (tmp_path / "functions").iterdir()} == functions | {
    "params.npz"
  }
  with pytest.raises(ConfigError, match="functions exists; choose another name"):
    export.export(run, str(tmp_path / "functions"), "stablehlo")
  monkeypatch.setattr(flatbuffers.Builder, "MAX_BUFFER_SIZE", 2**17)
  message = r"^--params_inside: embed_video has 0\.00 GiB .* omit it: .* in params\.npz"
  with pytest.raises(ConfigError, match=message):
    export.export(run, str(tmp_path / "large"), "stablehlo", params_inside=True)
  assert not (tmp_path / "large").exists()


def test_the_loader_of_the_docs_has_three_lines():
  body = LOADER.partition('"""\n')[2]
  assert len(body.strip().splitlines()) <= 3


def test_parameters_inside_are_only_those_of_functions(tmp_path):
  with pytest.raises(ConfigError, match=r"^--params_inside: vtr_jax has no functions"):
    export.export("run", str(tmp_path / "out"), "vtr_jax", params_inside=True)


def test_without_flatbuffers_the_cure_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "flatbuffers", None)
  with pytest.raises(VtrError, match=r"--as: stablehlo needs .*; pip install flatbuf"):
    stablehlo.check_installed()
