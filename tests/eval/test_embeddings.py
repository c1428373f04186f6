"""Embeddings of any model: files, checks, and scores by hand."""

import json
import sys

import numpy as np
import pytest
from runtime_types import unchecked

from vtr_jax import evaluate
from vtr_jax.core.errors import ConfigError, DataError
from vtr_jax.eval import embeddings, protocols, scoring
from vtr_jax.eval.scoring import Extras

CUSTOM = protocols.get("custom")


def write(place, video, text, videos=None, texts=None, **arrays):
  """Writes the files as another model's code would."""
  place.mkdir(exist_ok=True)
  videos = videos or [dict(id=f"v{i}") for i in range(len(video))]
  texts = texts or [
    dict(id=f"v{i % len(video)}", caption=str(i)) for i in range(len(text))
  ]
  for name, rows in dict(videos=videos, texts=texts).items():
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (place / f"{name}.jsonl").write_text(lines)
  for name, values in dict(video=video, text=text, **arrays).items():
    np.save(place / f"{name}.npy", np.asarray(values, np.float32))
  return place


def score(place, name="custom", extras=None, **changes):
  request = evaluate.Request(
    name, changes, embeddings=str(place), extras=extras or Extras()
  )
  return evaluate.evaluate(request)


def test_retrieval_by_hand_from_embeddings_that_are_not_normalised(tmp_path, capsys):
  """Text 2 is nearer to video 0 than to its own, video 2; lengths do not matter."""
  video = 5 * np.eye(3)
  text = [[2, 0, 0], [0, 9, 0], [3, 0, 2]]
  results = score(write(tmp_path / "e", video, text))
  assert results["t2v/R@1"] == pytest.approx(200 / 3)
  assert results["t2v/MeanR"] == pytest.approx(4 / 3)
  # Video 0's own text has cosine 1, that of text 2 is 0.83; video 2 has only its own.
  assert results["v2t/R@1"] == 100
  printed = capsys.readouterr().out
  assert "custom: 3 texts, 3 clips, chance R@1 33, ties average" in printed
  assert "t2v" in printed
  written = json.loads((tmp_path / "e/evaluations/custom/results.json").read_text())
  assert written["results"] == results
  assert written["protocol"]["ties"] == "average"
  assert len(written["embeddings"]["fingerprint"]) == 16


def test_changes_and_counts_that_differ_from_the_protocol_are_reported(
  tmp_path, capsys
):
  place = write(tmp_path / "e", np.eye(3), np.eye(3))
  score(place, "msvd", ties="optimistic")
  printed = capsys.readouterr().out
  assert "NOT THE PROTOCOL'S DATA: 3 clips, not 670; 3 queries, not 27,763" in printed
  assert "changed: ties = 'optimistic'" in printed
  written = json.loads((place / "evaluations/msvd/results.json").read_text())
  assert written["differences"][0] == "3 clips, not 670"
  assert written["protocol"]["changed"] == dict(ties="optimistic")


def test_a_manifest_may_hold_any_keys(tmp_path, capsys):
  """Even keys of our manifests; only `data.split`, if any, is compared."""
  place = write(tmp_path / "e", np.eye(3), np.eye(3))
  for manifest in (
    dict(data="msrvtt", fingerprint="f", directory="d"),
    dict(data=[1]),
    dict(data=dict(split=None)),
  ):
    (place / "manifest.json").write_text(json.dumps(manifest))
    score(place)
    written = json.loads((place / "evaluations/custom/results.json").read_text())
    assert written["embeddings"]["manifest"] == manifest
    assert written["embeddings"]["directory"] == str(place)
    assert len(written["embeddings"]["fingerprint"]) == 16
  assert "NOT THE PROTOCOL'S DATA" not in capsys.readouterr().out
  (place / "manifest.json").write_text('{"data": {"split": "val"}}')
  score(place)
  assert "split 'val', not 'test'" in capsys.readouterr().out


def test_captions_first_keeps_the_first_text_of_each_clip(tmp_path):
  text = [*np.eye(3), *np.roll(np.eye(3), 1, axis=0)]  # the second three are all wrong
  place = write(tmp_path / "e", np.eye(3), text)
  assert score(place)["t2v/R@1"] == 50
  assert score(place, captions="first")["t2v/R@1"] == 100
  with pytest.raises(DataError, match="embed each clip's paragraph as one text"):
    score(place, captions="joined")


def test_ties_follow_the_protocol_s_rule(tmp_path):
  place = write(tmp_path / "e", np.ones((5, 2)), np.ones((5, 2)))  # collapsed
  for ties, rank in dict(average=3, optimistic=1, pessimistic=5).items():
    assert score(place, ties=ties)["t2v/MedR"] == rank


def test_each_fold_is_ranked_separately(tmp_path):
  """Texts 0 and 1 are nearest to clips of the other fold."""
  video = np.array([[1, 0], [0, 1], [1, 0.1], [0.1, 1]])
  text = np.array([[1, 0.1], [0.1, 1], [1, 0.1], [0.1, 1]])
  place = write(tmp_path / "e", video, text)
  assert score(place)["t2v/R@1"] == 50
  assert score(place, folds=2)["t2v/R@1"] == 100
  with pytest.raises(ConfigError, match="folds: 5 are more than the 4 clips"):
    score(place, folds=5)


def test_querybank_requires_a_bank_without_test_clips(tmp_path):
  place = write(tmp_path / "e", np.eye(3), np.eye(3))
  with pytest.raises(DataError, match=r"no bank\.npy"):
    score(place, extras=Extras(querybank=0.05))
  np.save(place / "bank.npy", np.eye(3, dtype=np.float32)[:2])
  lines = [dict(id="train0"), dict(id="v1")]
  (place / "bank.jsonl").write_text("\n".join(map(json.dumps, lines)))
  with pytest.raises(DataError, match="clip 'v1' is also in the test"):
    score(place, extras=Extras(querybank=0.05))
  lines[1]["id"] = "train1"
  (place / "bank.jsonl").write_text("\n".join(map(json.dumps, lines)))
  results = score(place, extras=Extras(querybank=0.05, dual_softmax=0.1))
  assert results["querybank/t2v/R@1"] == results["dual_softmax/t2v/R@1"] == 100
  assert "querybank/v2t/R@1" not in results


def test_rescoring_rejects_a_matrix_that_is_too_large(tmp_path, monkeypatch):
  place = write(tmp_path / "e", np.eye(3), np.eye(3))
  monkeypatch.setattr(scoring, "_MAX_SCORES", 8)
  score(place)
  with pytest.raises(DataError, match="too many for rescoring"):
    score(place, extras=Extras(dual_softmax=0.1))


def test_recognition_by_hand_with_two_prompts(tmp_path):
  """Two prompts per class; the last clip, a dog, is classified as a cat."""
  texts = [{"class": c, "caption": f"{p} {c}"} for c in ("cat", "dog") for p in "ab"]
  text = [[1, 0.1], [1, -0.1], [0.1, 1], [-0.1, 1]]
  videos = [dict(id="a", label="cat"), dict(id="b", label="dog")]
  videos.append(dict(id="c", label="dog"))
  video = [[3, 1], [1, 3], [2, 1]]
  place = write(tmp_path / "e", video, text, videos, texts)
  results = score(place, "kinetics400")
  assert results["top1"] == pytest.approx(200 / 3)
  assert results["top5"] == 100
  assert results["mean_class_top1"] == 75
  with pytest.raises(DataError, match="texts are classes, the protocol needs captions"):
    score(place)
  videos[2]["label"] = "cow"
  write(place, video, text, videos, texts)
  with pytest.raises(DataError, match="'c': its label 'cow' is not one of the 2"):
    score(place, "kinetics400")


def test_choice_by_hand(tmp_path):
  """Three candidates each: correct, a wrong one better, a tie with a wrong one."""
  texts = [dict(id=f"v{i // 3}", right=i % 3 == 0) for i in range(9)]
  text = [[1, 0], [0, 1], [0, 1], [0, 1], [1, 0], [0, 1], [1, 0], [1, 0], [0, 1]]
  place = write(tmp_path / "e", [[1, 0]] * 3, text, texts=texts)
  results = score(place, "msrvtt_mc")
  assert results == pytest.approx(dict(accuracy=50, chance=100 / 3))  # 1 + 0 + 0.5
  with pytest.raises(DataError, match="texts are candidates, the protocol needs capt"):
    score(place)
  for bad in ("false", 0, None):
    write(
      place,
      [[1, 0]] * 3,
      text,
      texts=[*texts[:4], texts[4] | dict(right=bad), *texts[5:]],
    )
    with pytest.raises(DataError, match='line 5: expected "right": true or false'):
      embeddings.load(place)
  write(place, [[1, 0]] * 3, text, texts=[dict(id="v0"), *texts[1:]])
  with pytest.raises(DataError, match=r"line 1: .*; give it to all texts or to none"):
    embeddings.load(place)
  texts[1]["right"] = True
  write(place, [[1, 0]] * 3, text, texts=texts)
  with pytest.raises(DataError, match="'v0': 2 right candidates of 3"):
    score(place, "msrvtt_mc")
  write(place, np.eye(3), np.eye(3))
  with pytest.raises(DataError, match="captions, the protocol needs candidates"):
    score(place, "msrvtt_mc")


def example():
  unit = np.eye(4, 6, dtype=np.float32)
  ids = ["ä", "b\u2028c", "d\ne", "f"]
  return embeddings.Embeddings(
    video=unit,
    ids=ids,
    labels=["x", "", "", "y"],
    text=unit[[0, 0, 3]],
    texts=["ein\nBär", "b", "c"],
    owner=np.array([0, 0, 3]),
    names=ids,
    bank=unit[:2],
    bank_ids=["t0", "t0"],
    manifest=dict(model="m"),
  )


def test_embeddings_survive_saving_and_loading(tmp_path):
  before = example()
  embeddings.save(tmp_path / "new" / "e", before)
  after = embeddings.load(tmp_path / "new" / "e")
  for name in ("video", "text", "owner", "bank"):
    np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
  for name in ("ids", "labels", "texts", "names", "bank_ids", "manifest"):
    assert getattr(after, name) == getattr(before, name)
  assert embeddings.fingerprint(after) == embeddings.fingerprint(before)
  with pytest.raises(DataError, match="already exists"):
    embeddings.save(tmp_path / "new" / "e", before)


def test_parquet_files_have_the_same_rows(tmp_path):
  parquet = pytest.importorskip("pyarrow.parquet")
  embeddings.save(tmp_path / "e", example())
  table = parquet.read_table(tmp_path / "e" / "video.parquet").to_pydict()
  assert table["id"] == example().ids
  np.testing.assert_array_equal(table["embedding"], example().video)


def test_embeddings_are_saved_without_pyarrow(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "pyarrow", None)
  embeddings.save(tmp_path / "e", example())
  assert not (tmp_path / "e" / "video.parquet").exists()
  assert embeddings.load(tmp_path / "e").ids == example().ids


def damage(name, value):
  """A function that damages one file of a valid directory."""

  def spoil(place):
    if isinstance(value, str | bytes):
      (place / name).write_bytes(value.encode() if isinstance(value, str) else value)
    elif value is None:
      (place / name).unlink()
    else:
      np.save(place / name, value)

  return spoil


@pytest.mark.parametrize(
  ("spoil", "message"),
  [
    (damage("video.npy", None), r"video\.npy: cannot be read"),
    (damage("text.npy", b"no array"), r"text\.npy: cannot be read"),
    (damage("text.npy", np.array([{}] * 3)), r"text\.npy: cannot be read"),
    (damage("text.npy", np.eye(4, dtype="f")), r"text\.npy: float32 of shape \(4, 4\)"),
    (damage("text.npy", np.eye(3, dtype=int)), r"text\.npy: int64"),
    (damage("video.npy", np.zeros((3, 3), "f")), r"video\.npy: row 0 has norm 0"),
    (damage("video.npy", np.diag([1, np.nan, 1.0])), r"row 1 has norm nan"),
    (damage("text.npy", np.eye(3, 5, dtype="f")), "cannot be compared"),
    (damage("videos.jsonl", None), r"videos\.jsonl: cannot be read"),
    (damage("videos.jsonl", ""), r"videos\.jsonl: empty"),
    (damage("videos.jsonl", b"\xff\xfe"), r"videos\.jsonl: cannot be read"),
    (damage("videos.jsonl", '{"id": "v0"}\n{"id": '), r"jsonl, line 2: not valid JSON"),
    (damage("videos.jsonl", '"v0"\n'), r"line 1: expected an object"),
    (damage("videos.jsonl", '{"name": "v0"}\n' * 3), r"line 1: no string 'id'"),
    (damage("videos.jsonl", '{"id": "v0"}\n' * 3), "lines 1 and 2 have one id"),
    (damage("texts.jsonl", '{"id": "v7"}\n' * 3), "line 1: no clip 'v7'"),
    (damage("manifest.json", "[1]"), r"manifest\.json: damaged"),
  ],
)
def test_damaged_files_are_rejected_with_file_and_line(tmp_path, spoil, message):
  place = write(tmp_path / "e", np.eye(3), np.eye(3))
  spoil(place)
  with unchecked(), pytest.raises(DataError, match=message) as error:
    score(place)
  assert "\n" not in str(error.value)


def test_contradictory_flags_are_rejected():
  for flags in (
    {},
    dict(checkpoint="a", embeddings="b"),
    dict(embeddings="b", data="d"),
    dict(embeddings="b", save_embeddings="d"),
    dict(embeddings="b", batch_size=8),
    dict(embeddings="b", extras=Extras(rerank=3)),
  ):
    with pytest.raises(ConfigError, match="--"):
      evaluate.Request("custom", {}, **flags)


@pytest.mark.parametrize("name", protocols.EMBEDDING_FIELDS)
def test_fields_of_embedding_are_rejected_with_precomputed_embeddings(name):
  """They would be reported as changes, and change nothing."""
  with pytest.raises(ConfigError, match=f"--set={name}: is for --checkpoint"):
    evaluate.Request("custom", {name: 3}, embeddings="b")
