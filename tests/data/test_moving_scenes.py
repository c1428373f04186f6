"""The second embedded data set: stories of `moving_shapes` in a setting."""

import collections
import io
import json
import re

import av
import numpy as np
import pytest
import sentencepiece
import tensorflow_datasets as tfds
from stories import parse

from configs import common
from vtr_jax.core.batch import ClipSpec, MaskSpec, TextSpec
from vtr_jax.core.config import read
from vtr_jax.data import loader
from vtr_jax.data.embedded import build as embedded
from vtr_jax.data.embedded import builders
from vtr_jax.data.examples import DataConfig
from vtr_jax.data.moving_scenes import captions, render, textures
from vtr_jax.data.moving_scenes import setting as settings
from vtr_jax.data.moving_shapes import captions as stories
from vtr_jax.data.moving_shapes import scene
from vtr_jax.data.tokenizers import base as tokenizers

WORLD = embedded.BUILDERS["moving_scenes"].WORLD
COUNTS = builders.variants("moving_scenes")["full"].counts
MEANINGS = {split: WORLD.draw(split, count) for split, count in COUNTS.items()}


def setting_of(split: str, index: int) -> settings.Setting:
  """As `make_raw` draws it."""
  key = [render.SEED, scene.SPLITS.index(split), index, 2]
  return settings.draw(MEANINGS[split][index], np.random.default_rng(key))


def texts_of(split: str, index: int) -> list[str]:
  """As `make_raw` draws them."""
  key = [render.SEED, scene.SPLITS.index(split), index, 0]
  meaning, setting = MEANINGS[split][index], setting_of(split, index)
  return captions.captions(meaning, setting, np.random.default_rng(key))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  directory = tmp_path_factory.mktemp("data")
  embedded.build(directory, "moving_scenes/tiny", workers=1, progress=False)
  return directory


@pytest.fixture(scope="module")
def tiny(root):
  return root / "moving_scenes" / "tiny" / "1.0.0"


# What the clips mean.


def test_stories_are_distinct_and_others_than_those_of_moving_shapes():
  for split in ("validation", "test", "novel"):
    assert len(set(MEANINGS[split])) == COUNTS[split]
  shapes = scene.meanings("train", 1000)
  same = sum(a == b for a, b in zip(shapes, MEANINGS["train"], strict=False))
  assert same < 50
  assert {scene.label_of(m) for m in MEANINGS["test"]} == set(scene.LABELS)


def test_things_at_rest_are_neither_in_the_story_nor_novel():
  for split in scene.SPLITS:
    for i, meaning in enumerate(MEANINGS[split][:500]):
      things = setting_of(split, i).things
      assert 1 <= len(things) <= 3
      assert len(set(things)) == len(things)
      assert not set(things) & (set(meaning.things) | scene.NOVEL_THINGS)


def test_settings_are_balanced_and_independent_of_the_label():
  drawn = [setting_of("train", i) for i in range(4000)]
  for field, known in (
    ("texture", settings.TEXTURES),
    ("light", settings.LIGHTS),
    ("camera", settings.CAMERAS),
  ):
    counts = collections.Counter(getattr(setting, field) for setting in drawn)
    assert set(counts) == set(known)
    assert max(counts.values()) < 1.3 * min(counts.values())
  dim = collections.Counter(
    scene.label_of(m) == "cross"
    for m, setting in zip(MEANINGS["train"], drawn, strict=False)
    if setting.light == "dim"
  )
  assert 0.07 < dim[True] / dim.total() < 0.15  # of all clips, 0.11


# What they say.


def patterns(form: int) -> list[tuple[str, re.Pattern]]:
  """(topic, pattern with the groups of its values) of phrases (0), sentences (1)."""
  nouns = [noun for some in stories.NOUNS.values() for noun in some]
  thing = rf"an? (?P<colour>{'|'.join(scene.COLOURS)}) (?P<shape>{'|'.join(nouns)})"
  groups = dict(
    noun=f"(?P<noun>{'|'.join(settings.TEXTURES)})",
    adjective=f"(?P<adjective>{'|'.join(sum(captions.ADJECTIVES.values(), ()))})",
    verb=f"(?P<verb>{'|'.join(sum(captions.VERBS.values(), ()))})",
  )
  return [
    (topic, re.compile(text.format(**groups | (dict(noun=thing) if own else {}))))
    for topic, forms in captions.CLAUSES.items()
    for own in (topic == "thing",)
    for text in forms[form]
  ]


FORMS = [patterns(0), patterns(1)]


def clause(text: str, form: int) -> tuple[str, object] | None:
  """(topic, what is said of it), if the text is a clause."""
  shapes = {noun: shape for shape, some in stories.NOUNS.items() for noun in some}
  words = {w: k for k, some in captions.ADJECTIVES.items() for w in some}
  words |= {w: k for k, some in captions.VERBS.items() for w in some}
  words |= {name: name for name in settings.TEXTURES}
  found = []
  for topic, pattern in FORMS[form]:
    if match := pattern.fullmatch(text):
      said = match.groupdict()
      if topic == "thing":
        found.append((topic, scene.Thing(said["colour"], shapes[said["shape"]])))
      else:
        values = {words[word] for word in said.values()}
        assert len(values) == 1, text
        found.append((topic, values.pop()))
  assert len(found) <= 1, text
  return found[0] if found else None


def read_caption(text: str) -> tuple[scene.Meaning, dict[str, object]]:
  """The story and what is said of the setting, by topic."""
  said, rest = [], []
  for sentence in text.split(". "):
    found = clause(sentence, 1)
    said.append(found) if found else rest.append(sentence)
  (sentence,) = rest
  parts = sentence.split(", ")
  found = [clause(part, 0) for part in parts]
  story = [part for part, what in zip(parts, found, strict=True) if what is None]
  where = [what is None for what in found]
  first = where.index(True)
  assert all(where[first : first + len(story)]), text  # in one piece
  said += [what for what in found if what]
  topics = dict(said)
  assert 1 <= len(topics) == len(said) <= 3, text
  return parse(", ".join(story)), topics


@pytest.mark.parametrize("split", scene.SPLITS)
def test_every_caption_parses_to_its_story_and_setting(split):
  topics = collections.Counter()
  for i, meaning in enumerate(MEANINGS[split][:300]):
    texts, setting = texts_of(split, i), setting_of(split, i)
    assert len(set(texts)) == 2
    for text in texts:
      story, said = read_caption(text)
      assert story == meaning, text
      topics.update(list(said))
      if "thing" in said:
        assert said.pop("thing") in setting.things, text
      assert said == {topic: getattr(setting, topic) for topic in said}, text
      assert text == text.lower().strip()
      assert "  " not in text
      assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text
  assert min(topics[topic] for topic in captions.CLAUSES) > 200


def test_no_word_of_an_action_or_an_order_occurs_in_a_clause():
  told = {
    text for forms in captions.CLAUSES.values() for form in forms for text in form
  }
  told |= {w for some in captions.ADJECTIVES.values() for w in some}
  told |= {w for some in captions.VERBS.values() for w in some}
  words = set(re.findall(r"[a-z]+", " ".join(told | set(settings.TEXTURES))))
  acts = [p for some in stories.PHRASES.values() for p in some] + [*stories.CROSSINGS]
  acted = {
    w for p in acts for form in range(3) for w in stories.inflect(p, form).split()
  }
  acted |= {"after", "as", "at", "before", "first", "later", "once", "then", "while"}
  acted |= {"and", "both", "it", "same", "time", "together", "watch", "we"}
  # "come into view", "leave the view", "to the left": articles alone are shared.
  assert words & acted == {"the"}
  assert not words & {*scene.COLOURS, *sum(stories.NOUNS.values(), ())}


def test_captions_are_long_and_fit_the_config():
  texts = [t for i in range(3000) for t in texts_of("train", i)]
  model = embedded.train_tokenizer(texts)
  tokenizer = sentencepiece.SentencePieceProcessor(model_proto=model)
  lengths = [len(ids) + 1 for ids in tokenizer.encode(texts)]  # <cls>
  spec = common.SCENES["text"]
  assert max(lengths) <= spec["max_length"]
  assert np.percentile(lengths, 5) >= 12
  assert np.percentile(lengths, 95) <= 32
  assert 200 < tokenizer.vocab_size() <= spec["vocab_size"]
  words = {word for text in texts for word in re.findall("[a-z]+", text)}
  assert len([word for word in words if len(tokenizer.encode(word)) > 1]) <= 5


# What they show.


def parts_of(split: str, index: int) -> render.Parts:
  meaning, setting = MEANINGS[split][index], setting_of(split, index)
  return render.draw_parts(meaning, setting, np.random.default_rng(index))


def test_playing_backwards_shows_reversed_paths():
  for index in range(0, 40, 4):
    meaning = MEANINGS["test"][index]
    parts = parts_of("test", index)
    frames = render.compose(meaning, parts)
    tracks = [track._replace(**_reversed(track)) for track in parts.tracks]
    paths = parts.paths._replace(**_reversed(parts.paths))
    again = render.compose(meaning, parts._replace(tracks=tracks, paths=paths))
    np.testing.assert_array_equal(again[::-1], frames)
    assert np.abs(frames - frames[::-1]).mean() > 0.5


def _reversed(arrays) -> dict[str, np.ndarray]:
  return {name: array[::-1] for name, array in arrays._asdict().items()}


def test_paths_are_as_likely_in_reverse():
  """Of each statistic that a reversal negates, the mean is near 0."""
  drawn = [
    render.draw_paths(setting_of("train", i), np.random.default_rng(i))
    for i in range(600)
  ]
  for paths in zip(*drawn, strict=True):
    change = np.array([path[-1] - path[0] for path in paths])
    spread = change.std(axis=0) / np.sqrt(len(change))
    assert (np.abs(change.mean(axis=0)) < 4 * spread + 1e-6).all()


def test_the_setting_is_as_told():
  drawn = [
    (setting, render.draw_paths(setting, np.random.default_rng(i)))
    for i in range(300)
    for setting in (setting_of("train", i),)
  ]
  for setting, paths in drawn:
    assert np.abs(paths.shake).max() <= 3
    assert np.abs(paths.drift).max() <= 5
    assert (np.abs(paths.shake).max() > 1.5) == (setting.camera == "shaky")
    assert (paths.light[:, 0].mean() < 0.75) == (setting.light == "dim")
    assert (paths.light[:, 0].mean() > 1.0) == (setting.light == "bright")
    slope = np.hypot(*paths.light[:, 1:].T).mean()
    assert (slope > 0.4) == (setting.light == "uneven")


def test_actors_stand_out_from_what_is_behind_them():
  """In every frame that shows one, most of its pixels differ clearly."""
  for index in range(40):
    meaning = MEANINGS["train"][index]
    parts = parts_of("train", index)
    frames = render.compose(meaning, parts)
    hidden = [track._replace(visible=np.zeros(24, bool)) for track in parts.tracks]
    empty = render.compose(meaning, parts._replace(tracks=hidden))
    shown = np.any([track.visible for track in parts.tracks], axis=0)
    differ = np.abs(frames - empty).max(axis=3)
    covered, clear = ((differ > low).sum(axis=(1, 2)) for low in (1, 15))
    assert (covered[shown] > 150).all(), meaning
    assert (clear[shown] > 0.75 * covered[shown]).all(), meaning
    assert not covered[~shown].any()


def test_actors_stay_in_the_picture():
  for index in range(100):
    parts = parts_of("train", index)
    down, right = parts.paths.shake.T
    for track in parts.tracks:
      for at in (track.y + down, track.x + right):
        assert (at - track.radius > -1).all()
        assert (at + track.radius < render.SIZE + 1).all()


@pytest.mark.parametrize("name", settings.TEXTURES)
def test_textures_have_light_and_dark_parts(name):
  for seed in range(5):
    plane = textures.draw(name, 146, np.random.default_rng(seed))
    assert plane.shape == (146, 146)
    assert plane.dtype == np.float32
    assert 0 <= plane.min() <= plane.max() <= 1
    assert plane.std() > 0.15
    assert 0.15 < plane.mean() < 0.9


# How the set is built.


def read_all(directory, split):
  return list(tfds.builder_from_directory(directory).as_data_source(split))


def test_clips_are_the_same_whenever_they_are_made(tiny):
  for split in scene.SPLITS:
    records = read_all(tiny, split)
    assert len(records) == builders.variants("moving_scenes")["tiny"].counts[split]
    again = [WORLD.make(split, i, MEANINGS[split][i]) for i in (3, 4, 5)]
    for record, clip in zip(records[3:6], again, strict=True):
      assert record["id"].decode() == clip.id
      assert record["video"] == clip.video
      assert [text.decode() for text in record["captions"]] == clip.captions
      assert record["label"].decode() == clip.label


def test_captions_of_tiny_are_those_of_version_1(tiny):
  sums = json.loads((tiny / embedded.CHECKSUM).read_text())
  # If these change, so does the data set: raise MovingScenes.VERSION.
  assert {split: sums[split]["captions"][:16] for split in sums} == dict(
    train="78f5ae62ccb403ec",
    validation="015ad9ea38ee3a8a",
    test="0fc409ec0d663775",
    novel="c3ce167de4d13fb3",
  )


def test_videos_decode_close_to_what_was_rendered(tiny):
  for i, record in enumerate(read_all(tiny, "novel")[:6]):
    with av.open(io.BytesIO(record["video"])) as container:
      assert container.streams.video[0].codec_context.name == "h264"
      assert container.streams.video[0].average_rate == 12
      frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert np.shape(frames) == (24, 128, 128, 3)
    raw, _ = render.make_raw("novel", i, MEANINGS["novel"][i], render.SEED)
    assert np.abs(np.array(frames, int) - raw).mean() < 8


def test_the_config_reads_the_records(root, tiny):
  values = common.SCENES
  data = values["data"] | dict(
    dir=str(root), name="moving_scenes/tiny", split="train", num_workers=0
  )
  clip, text = read(ClipSpec, values["clip"]), read(TextSpec, values["text"])
  tokenizer = tokenizers.load(str(tiny / embedded.TOKENIZER))
  mask = MaskSpec("per_frame", 0.75)
  with loader.train_batches(
    read(DataConfig, data), clip, text, mask, tokenizer, batch_size=4, seed=0
  ) as batches:
    batch = next(batches)
  assert clip.num_tubelets == 576
  assert batch["video_keep_idx"].shape == (4, 144)
  assert batch["valid"].all()
