"""The example of docs/finetuning.md: a vector database reads a table of embeddings."""

import re
import types

import numpy as np
import pytest
from conftest import ROOT

from vtr_jax.inference import table

(CODE,) = re.findall(
  r"```python\n(import lancedb\n.*?)```",
  (ROOT / "docs" / "finetuning.md").read_text(),
  re.DOTALL,
)


@pytest.mark.nightly  # lancedb takes seconds to import
def test_lancedb_reads_a_table_of_embeddings(tmp_path, monkeypatch):
  """The code as it stands; hits are those of the cosines."""
  pytest.importorskip("lancedb", reason="lancedb is not installed")
  monkeypatch.chdir(tmp_path)
  rng = np.random.default_rng(0)
  vectors = rng.normal(size=(41, 16)).astype("f")
  vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
  paths = np.array([f"{i}.mp4" for i in range(40)])
  table.write("embeddings.parquet", dict(path=paths, embedding=vectors[:40]))
  model = types.SimpleNamespace(embed_text=lambda texts: vectors[40:])
  names = dict(model=model)
  exec(CODE, names)
  cosines = vectors[:40] @ vectors[40]
  order = np.argsort(-cosines)[:10]
  found, scores = zip(*names["hits"], strict=True)
  assert list(found) == paths[order].tolist()
  np.testing.assert_allclose(scores, cosines[order], atol=1e-6)
