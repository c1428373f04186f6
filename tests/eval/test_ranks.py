"""Ranks from embeddings, tile by tile, against those of the full matrix."""

import csv
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from vtr_jax.eval import metrics, ranks

SHARED = Path(os.environ.get("VTR_SHARED", ROOT.parent / "shared"))
CLAP = SHARED / "data" / "metrics_reference" / "clap_audiocaps497"
CONDITIONS = (
  "original", "highpass_1000Hz", "lowpass_4000Hz", "noisy_snr10dB", "pitch_shift"
)  # fmt: skip


def l2_normalize(x):
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def case(seed, texts, videos, width):
  """Embeddings in which every third video is a copy of an earlier one."""
  rng = np.random.default_rng(seed)
  video = l2_normalize(rng.normal(size=(videos, width)))
  video[2::3] = video[rng.integers(0, 2, len(video[2::3]))]
  text = l2_normalize(rng.normal(size=(texts, width)))
  text[1::4] = text[0]
  return text, video, rng.integers(0, videos, texts)


@pytest.mark.parametrize("ties", metrics.TIES)
@pytest.mark.parametrize("seed", range(6))
def test_tiled_ranks_equal_those_of_the_full_matrix(seed, ties, monkeypatch):
  monkeypatch.setattr(ranks, "TILE", [3, 7, 16, 64, 1, 200][seed])
  text, video, owner = case(seed, 90, 41, 8)
  if seed % 2:
    owner = np.sort(owner)
  sim = ranks.cosines(text, video)
  t2v, v2t = ranks.ranks(text, video, owner, ties)
  np.testing.assert_array_equal(t2v, metrics.text_to_video_ranks(sim, owner, ties))
  np.testing.assert_array_equal(v2t, metrics.video_to_text_ranks(sim, owner, ties))


def test_equal_embeddings_have_equal_scores_in_every_tile(monkeypatch):
  """Products of other shapes may round differently; that must not break a tie."""
  rng = np.random.default_rng(0)
  text, video = l2_normalize(rng.normal(size=(2, 333)))[:, None]
  text, video = np.repeat(text, 70, axis=0), np.repeat(video, 53, axis=0)
  for tile in (16, 33, 2048):
    monkeypatch.setattr(ranks, "TILE", tile)
    assert len(np.unique(ranks.cosines(text, video))) == 1
    t2v, v2t = ranks.ranks(text, video, np.arange(70) % 53)
    assert set(t2v) == {27.0}
    assert set(v2t) == {35.5}


def test_tiled_ranks_do_not_allocate_the_full_matrix():
  text, video, owner = case(0, 12_000, 6_000, 4)
  tracemalloc.start()
  ranks.ranks(text, video, np.sort(owner))
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 12_000 * 6_000 * 4 / 2


def published():
  """(condition, direction) -> R@1, R@5, R@10 as shares and MedR."""
  if not CLAP.exists():
    pytest.skip(f"no published matrices at {CLAP}; VTR_SHARED names their directory")
  with (CLAP / "retrieval_summary.csv").open() as f:
    rows = {(r.pop("condition"), r.pop("direction")): r for r in csv.DictReader(f)}
  return {k: {n: float(v) for n, v in row.items()} for k, row in rows.items()}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_published_metrics_of_clap_are_reproduced(condition):
  """All ten rows to the last digit; their rule is `>=`, and 74 clips are duplicates."""
  expected = published()
  text = l2_normalize(np.load(CLAP / "text_embeddings.npy"))
  audio = l2_normalize(np.load(CLAP / f"audio_emb_{condition}.npy"))
  owner = np.arange(len(text))
  for way, pair in {"T->A": (text, audio), "A->T": (audio, text)}.items():
    clap_ranks, _ = ranks.ranks(*pair, owner, "pessimistic")
    summary = metrics.summarize(clap_ranks)
    for name, value in expected[condition, way].items():
      scale = 1 if name == "MedR" else 100
      assert summary[name] == pytest.approx(scale * value, abs=1e-9), (way, name)


def test_a_published_matrix_differs_by_tie_rule():
  """Rows of sim_matrix.npy are audio: T->A ranks its columns."""
  published()
  sim = np.load(CLAP / "sim_matrix.npy").T.copy()
  owner = np.arange(len(sim))
  first = {
    ties: metrics.summarize(metrics.text_to_video_ranks(sim, owner, ties))["R@1"]
    for ties in metrics.TIES
  }
  assert first == pytest.approx(
    dict(average=25.35, optimistic=34.41, pessimistic=25.35), abs=0.01
  )
  # A stable sort is between them, depending on the order of the clips.
  sort = np.argsort(np.argsort(-sim, axis=1, kind="stable"), axis=1)
  stable = 100 * np.mean(sort[owner, owner] == 0)
  assert first["pessimistic"] < stable < first["optimistic"]
