"""Public weights: every key is accounted for, and outputs equal the original code's."""

import dataclasses
import json

import flax.linen as nn
import hf_cases
import jax
import numpy as np
import pytest
from dual_cases import change
from flax.traverse_util import flatten_dict
from golden_cases import golden
from weight_cases import (
  COMPUTE,
  HALF,
  HF,
  KEY_LISTS,
  LIST_KINDS,
  NOTHING,
  SIZE,
  TEXT,
  assert_close,
  clip_of,
  dual,
  family,
  shapes,
  small_simvtp,
)
from weights import convert, draw

from configs import mac, simvtp
from vtr_jax.core import batch as batch_lib
from vtr_jax.core import config as config_lib
from vtr_jax.core.batch import ClipSpec, MaskSpec, TextSpec
from vtr_jax.core.errors import WeightsError
from vtr_jax.models.layers import Compute, Transformer, TransformerConfig, l2_normalize
from vtr_jax.objectives import base as objectives
from vtr_jax.objectives import simvtp as simvtp_objective
from vtr_jax.train.config import TrainConfig
from vtr_jax.weights import infer, match, registry, save, stacks


def converted(kind, state, objective, allow=()):
  """Parameters of `objective` from a state dict, random ones where it has none."""
  wanted = shapes(objective, objective.model.clip)
  return convert(kind, state, objective.model, wanted, allow)


@pytest.fixture(scope="module")
def given():
  """`hf_cases.inputs` as our batches have them: channels last."""
  data = hf_cases.inputs()
  return dict(
    video=data["video"].transpose(0, 1, 3, 4, 2),
    text_ids=data["ids"].astype("i4"),
    text_valid=data["valid"],
  )


def tokens_of(objective, params, given, frames=slice(None)):
  call = lambda m: m.video_tower(given["video"][:, frames])
  found = objective.model.apply({"params": params}, method=call)
  return np.concatenate([found.cls, found.patches], axis=1)


def test_vit_tokens_equal_those_of_transformers(given):
  state, out = hf_cases.case("vit")
  objective = dual()
  params, report = converted("vit", state, objective)
  assert_close(tokens_of(objective, params, given, slice(1)), out["tokens"])
  # The pooler is ignored by name, and reported.
  unused = {line.key for line in report.lines if line.status == "unused"}
  assert unused == {"pooler.dense.weight", "pooler.dense.bias"}
  assert {p.split("/")[0] for p in report.initialised} > {"text_tower", "video_proj"}


def test_vit_files_with_older_key_names_are_read(given):
  state, out = hf_cases.case("vit")
  old = {}
  for key, x in state.items():
    for new, before in (
      ("attention.q_proj", "attention.attention.query"),
      ("attention.k_proj", "attention.attention.key"),
      ("attention.v_proj", "attention.attention.value"),
      ("attention.o_proj", "attention.output.dense"),
      ("mlp.fc1", "intermediate.dense"),
      ("mlp.fc2", "output.dense"),
    ):
      key = key.replace(new, before)
    old["vit." + key.replace("layers.", "encoder.layer.")] = x
  objective = dual()
  params, report = converted("vit", old, objective)
  assert_close(tokens_of(objective, params, given, slice(1)), out["tokens"])
  renamed = [x for x in report.lines if any("renamed" in n for n in x.notes)]
  assert len(renamed) == len(old)


@pytest.mark.parametrize("kind", ["distilbert", "bert"])
def test_text_tokens_equal_those_of_transformers(kind, given):
  state, out = hf_cases.case(kind)
  objective = dual()
  params, _ = converted(kind, state, objective)
  ids, valid = given["text_ids"], given["text_valid"]
  call = lambda m: m.text_tower(ids, valid, train=False)
  ours = objective.model.apply({"params": params}, method=call)
  assert_close(np.asarray(ours)[valid], out["tokens"][valid])


def test_the_towers_of_one_model_come_from_two_files(given):
  """With stacked layers; outputs equal those of each file alone."""
  vit, words = hf_cases.case("vit"), hf_cases.case("distilbert")
  objective = dual(compute=COMPUTE | dict(scan=True))
  params, _ = converted("vit", vit[0], objective)
  text, _ = converted("distilbert", words[0], objective)
  params["text_tower"] = text["text_tower"]
  assert_close(tokens_of(objective, params, given, slice(1)), vit[1]["tokens"])
  ids, valid = given["text_ids"], given["text_valid"]
  call = lambda m: m.text_tower(ids, valid, train=False)
  ours = objective.model.apply({"params": params}, method=call)
  assert_close(np.asarray(ours)[valid], words[1]["tokens"][valid])


@pytest.mark.parametrize("kind", ["clip", "openai"])
def test_clip_embeddings_equal_those_of_the_original_code(kind, given):
  """Embeddings of images and captions, and CLIP4Clip's mean of frames."""
  state, out = hf_cases.case(kind)
  image = family("clip")
  params, _ = converted("clip", state, image)
  run = jax.jit(
    lambda p: (
      image.predict["embed_video"](p, first),
      image.predict["embed_text"](p, given),
    )
  )
  first = dict(video=given["video"][:, :1])
  video, text = run(params)
  assert_close(video, l2_normalize(out["image"][:, 0]))
  assert_close(text, l2_normalize(out["text"]))
  assert params["logit_scale"] == state["logit_scale"]
  clips = family("clip", HF.FRAMES, backbone="frame")
  params, _ = converted("clip", state, clips)
  mean = l2_normalize(l2_normalize(out["image"]).mean(axis=1))
  assert_close(jax.jit(clips.predict["embed_video"])(params, given), mean)


def test_open_clip_embeddings_equal_those_of_the_original_code(given):
  """Its GELU is exact, and newer models prefix the text tower's keys."""
  state, out = hf_cases.case("open_clip")
  exact = family("open_clip")
  words = ("transformer", "token_", "ln_final", "positional", "text_projection")
  named = {f"text.{k}" if k.startswith(words) else k: v for k, v in state.items()}
  named["attn_mask"] = np.zeros((HF.LENGTH, HF.LENGTH), "f")
  params, _ = converted("open_clip", named, exact)
  first = dict(video=given["video"][:, :1])
  assert_close(
    exact.predict["embed_video"](params, first), l2_normalize(out["image"][:, 0])
  )
  assert_close(exact.predict["embed_text"](params, given), l2_normalize(out["text"]))


def test_siglip_embeddings_equal_those_of_transformers(given):
  state, out = hf_cases.case("siglip")
  image = family("siglip", projection=HF.WIDTH)
  params, report = converted("siglip", state, image)
  first = dict(video=given["video"][:, :1])
  assert_close(
    image.predict["embed_video"](params, first), l2_normalize(out["image"][:, 0])
  )
  whole = given | dict(text_valid=np.ones_like(given["text_valid"]))
  assert_close(image.predict["embed_text"](params, whole), l2_normalize(out["text"]))
  assert [x.key for x in report.lines if x.status == "unused"] == ["logit_bias"]
  clips = family("siglip", HF.FRAMES, backbone="frame", projection=HF.WIDTH)
  params, _ = converted("siglip", state, clips)
  mean = l2_normalize(l2_normalize(out["image"]).mean(axis=1))
  assert_close(jax.jit(clips.predict["embed_video"])(params, given), mean)


def test_videomae_tokens_and_pixels_equal_those_of_transformers(given):
  state, out = hf_cases.case("videomae")
  objective = small_simvtp()
  params, report = converted("videomae", state, objective)
  hidden = np.array([1, 2, 4, 5, 7], "i4")
  keep, hide = (np.tile(x, (3, 1)) for x in (np.array([0, 3, 6], "i4"), hidden))

  def run(m):
    whole = m.encoder(m.embed_visible(given["video"], None))
    seen = m.encoder(m.embed_visible(given["video"], keep))
    return whole, m.pixel_decoder(seen, keep, hide)

  tokens, pixels = objective.model.apply({"params": params}, method=run)
  assert_close(tokens, out["tokens"])
  assert_close(pixels, out["pixels"])
  assert {p.split("/")[0] for p in report.initialised} == {
    "text_embed",
    "word_head",
    "match_head",
  }


def test_bert_initialises_the_word_embeddings_of_simvtp():
  state, _ = hf_cases.case("bert")
  params, report = converted("bert_words", state, small_simvtp())
  np.testing.assert_array_equal(
    params["text_embed"]["positions"],
    state["embeddings.position_embeddings.weight"]
    + state["embeddings.token_type_embeddings.weight"][0],
  )
  unused = {x.key.split(".")[0] for x in report.lines if x.status == "unused"}
  assert unused == {"encoder", "pooler"}


def test_fine_tuned_simvtp_weights_give_the_embeddings_of_its_code():
  """Two copies of the encoder, each pooled by a mean and then normalised."""
  arrays, meta = golden("simvtp_pretrain")
  state = {k[6:]: v for k, v in arrays.items() if k.startswith("state/")}
  c, text = meta["config"], meta["config"]["text"]
  rng = np.random.default_rng(0)
  scale, bias = rng.normal(1, 0.2, (2, c["encoder"]["dim"])).astype("f")
  tuned = {"video_encoder.fc_norm.weight": scale, "video_encoder.fc_norm.bias": bias}
  tuned |= {
    f"text_encoder.fc_norm.{k}": tuned[f"video_encoder.fc_norm.{k}"] * 2
    for k in ("weight", "bias")
  }
  for key, x in state.items():
    if key.startswith("encoder.blocks"):
      tuned |= {f"{side}_{key}": x for side in ("video", "text")}
    elif key.startswith("encoder.patch"):
      tuned["video_" + key] = x
    elif key.startswith("text_embeddings"):
      tuned["text_encoder." + key] = x
  width, hidden = c["encoder"]["dim"], 4 * c["encoder"]["dim"]
  size = dict(width=width, depth=c["encoder"]["depth"], mlp_dim=hidden)
  size["num_heads"] = c["encoder"]["heads"]
  values = change(
    mac.webvid2m_cc3m()["objective"],
    arch="simvtp",
    video=size,
    text=size,
    compute=COMPUTE,
    projection=width,
    pos_embed="flat",
    pool="mean",
    text_norm="pre",
    text_dropout=0.0,
  )
  patch = c["patch_size"]
  clip = ClipSpec(c["frames"], c["img_size"], (c["tubelet"], patch, patch), **HALF)
  words = TextSpec(text["max_pos"], text["vocab"], text["mask_id"])
  objective = objectives.build(values, clip, words, NOTHING)
  spec = batch_lib.spec(clip, words, NOTHING, 2)
  wanted = nn.unbox(jax.eval_shape(objective.init, jax.random.key(0), spec))
  kind = "simvtp_finetuned"
  params, report = convert(kind, tuned, objective.model, wanted)
  assert not report.initialised
  batch = dict(
    video=arrays["in/video_rgb01"].transpose(0, 1, 3, 4, 2),
    text_ids=arrays["in/text_ids"].astype("i4"),
    text_valid=arrays["in/attention_mask"].astype(bool),
  )
  shape = TransformerConfig(**size)
  blocks = Transformer(shape, Compute(**COMPUTE), norm_last=False)

  def by_hand(tower, x, valid, factor):
    x = blocks.apply({"params": tower}, x, valid)
    weight = np.ones(x.shape[:2]) if valid is None else valid
    x = (x * weight[:, :, None]).sum(axis=1) / weight.sum(axis=1, keepdims=True)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return l2_normalize(x * scale[None] * factor + bias[None] * factor)

  before = simvtp_objective.SimVTP(clip, words, simvtp_config(size, size))
  whole = dict(
    video_embed=dict(proj=params["video_tower"]["proj"]),
    text_embed=params["text_tower"]["embed"],
  )
  ids, valid = batch["text_ids"], batch["text_valid"]
  embed = lambda m: (
    m.embed_visible(batch["video"], None),
    m.text_embed(ids, valid, train=False),
  )
  video, caption = before.apply({"params": whole}, method=embed)
  names = ("embed_video", "embed_text")
  found = tuple(objective.predict[name](params, batch) for name in names)
  assert_close(found[0], by_hand(params["video_tower"], video, None, 1))
  assert_close(
    found[1], by_hand(params["text_tower"]["transformer"], caption, valid, 2)
  )


def simvtp_config(encoder, decoder):
  values = simvtp.webvid2m()["objective"]
  values |= dict(encoder=encoder, decoder=decoder, compute=COMPUTE, text_dropout=0.0)
  del values["name"]
  return config_lib.read(simvtp_objective.Config, values)


VIDEOPRISM = json.loads((hf_cases.FILE.parent / "videoprism_keys.json").read_text())
KINDS = LIST_KINDS | dict(viclip="viclip") | dict.fromkeys(VIDEOPRISM, "videoprism")


def mcq_keys():
  """MCQ's keys by its code: MILES' without time attention, and BridgeFormer's."""
  keys, width = {}, [768]
  for key, shape in KEY_LISTS["miles"]["keys"].items():
    if not any(part in key for part in ("temporal", "timeattn", "norm3")):
      keys[key.replace("video_model.norm.", "video_model.norm1.")] = shape
  for part in ("weight", "bias"):
    keys[f"video_model.norm2.{part}"] = width
    for name in ("crossattn.proj", "bridgeattn.proj", "bridge_mlp.fc1", "norm5"):
      keys[f"video_model.blocks.3.{name}.{part}"] = width
  return keys | {"bridge_proj.0.weight": [256, 768]}


def viclip_keys():
  """ViCLIP-L/14's keys and shapes, from its code."""
  keys = {"temp": [], "vision_encoder.temporal_positional_embedding": [1, 8, 1024]}
  for side, width, places in (("vision", 1024, 257), ("text", 768, 32)):
    keys[f"{side}_encoder.positional_embedding"] = [places, width]
    norms = ["ln_pre", "ln_post"] if side == "vision" else ["ln_final"]
    layers = 24 if side == "vision" else 12
    for i in range(layers):
      block = f"{side}_encoder.transformer.resblocks.{i}."
      keys[f"{block}attn.in_proj_weight"] = [3 * width, width]
      keys[f"{block}attn.in_proj_bias"] = [3 * width]
      linear = dict(attn_out_proj=(1, 1), mlp_c_fc=(4, 1), mlp_c_proj=(1, 4))
      for name, (out, into) in linear.items():
        name = name.replace("_", ".", 1)
        keys[f"{block}{name}.weight"] = [out * width, into * width]
        keys[f"{block}{name}.bias"] = [out * width]
      norms += [f"transformer.resblocks.{i}.ln_{n}" for n in (1, 2)]
    keys |= {
      f"{side}_encoder.{name}.{part}": [width]
      for name in norms
      for part in ("weight", "bias")
    }
  return keys | {
    "vision_encoder.class_embedding": [1024],
    "vision_encoder.conv1.weight": [1024, 3, 1, 14, 14],
    "vision_encoder.proj": [1024, 768],
    "text_encoder.token_embedding.weight": [49408, 768],
    "text_encoder.text_projection": [768, 768],
  }


LISTS = KEY_LISTS | VIDEOPRISM | dict(mcq=dict(keys=mcq_keys()))
LISTS |= dict(viclip=dict(keys=viclip_keys()))


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(
  "prefix", ["", pytest.param("module._orig_mod.", marks=pytest.mark.nightly)]
)
def test_every_key_of_the_real_files_is_used_or_ignored_by_name(name, prefix):
  """By lists of the keys and shapes of the full-size files."""
  kind = KINDS[name]
  source = registry.find(kind)
  one = np.float32(0.5)
  shaped = LISTS[name]["keys"].items()
  state = {prefix + key: np.broadcast_to(one, shape) for key, shape in shaped}
  values = infer.infer(infer.recipe(source), kind, source, state)
  c = config_lib.read(TrainConfig, values | dict(evals={}))
  objective = c.make_objective()
  boxed = jax.eval_shape(objective.init, jax.random.key(0), c.spec())
  flat = flatten_dict(nn.unbox(boxed), sep="/")
  _, report = match.match(
    name, kind, source, state, objective.model, stacks.shapes(flat)
  )
  report.check()
  by = lambda status: [line.key for line in report.lines if line.status == status]
  size = {"videoprism": 288}.get(kind, 224)
  if kind == "videoprism":
    assert not by("unused")
    lvt = "lvt" in name  # the others have no text
    assert {p.partition("/")[0] for p in report.initialised} <= {"text_tower"} - {
      *(["text_tower"] if lvt else [])
    }
    assert c.clip.num_frames == (16 if "base" in name else 8)
  left = {key.removeprefix(prefix).split(".")[0] for key in by("unused")}
  assert left <= {"head", "pooler"} or name == "mcq"
  assert len(by("used")) + len(by("unused")) == len(state)
  assert len(by("missing")) == 2 * (name == "videomae_hf")
  assert objective.model.clip.image_size == size


def test_positions_tubelets_and_vocabulary_are_resized(given):
  """Also longer tubelets and shorter captions."""
  state, _ = hf_cases.case("clip")
  objective = family("clip", 2, backbone="vit")
  small = objective.model.clip
  large = dataclasses.replace(small, image_size=32, tubelet_size=(2, 8, 8))
  text = TextSpec(5, HF.WORDS + 1, HF.WORDS)
  values = dict(clip=large, text=text)
  model = objective.model.clone(**values)
  wanted = {
    path: stacks.Shape(shape)
    for path, shape in dict(
      shapes_of(model, large, text),
    ).items()
  }
  found, report = match.match(
    "file", "clip", registry.find("clip"), state, model, wanted
  )
  report.check()
  kernel = state["vision_model.embeddings.patch_embedding.weight"]
  flat = kernel.transpose(2, 3, 1, 0).reshape(-1, HF.WIDTH)
  ours = found["video_tower/proj/kernel"]
  # On a still clip, the tubelet's projection equals the patch's.
  np.testing.assert_allclose(ours[: len(flat)] + ours[len(flat) :], flat, rtol=1e-6)
  words = state["text_model.embeddings.token_embedding.weight"]
  np.testing.assert_array_equal(found["text_tower/embed/words"][:-1], words)
  np.testing.assert_allclose(
    found["text_tower/embed/words"][-1], words.mean(axis=0), rtol=1e-5
  )
  positions = state["text_model.embeddings.position_embedding.weight"]
  np.testing.assert_array_equal(found["text_tower/embed/positions"], positions[:5])
  places = state["vision_model.embeddings.position_embedding.weight"]
  grown = found["video_tower/space_positions"]
  assert grown.shape == (17, HF.WIDTH)
  np.testing.assert_array_equal(grown[0], places[0])
  # A grid twice as fine keeps its corners' order and its mean.
  np.testing.assert_allclose(grown[1:].mean(0), places[1:].mean(0), atol=0.05)
  resized = [x.key for x in report.lines if any("resized" in n for n in x.notes)]
  assert len(resized) == 4


def shapes_of(model, clip, text):
  spec = batch_lib.spec(clip, text, NOTHING, 2)
  boxed = jax.eval_shape(lambda k, b: model.init(k, b), jax.random.key(0), spec)
  flat = flatten_dict(nn.unbox(boxed)["params"], sep="/")
  return {path: x.shape for path, x in flat.items()}


def test_weights_that_cannot_fit_are_reported():
  state, _ = hf_cases.case("vit")
  wide = dual(video=SIZE | dict(width=32))
  with pytest.raises(WeightsError, match=r"cls_token is \(32,\) in the model"):
    converted("vit", state, wide)
  with pytest.raises(WeightsError, match=r"arch 'clip'.*set config.objective.arch"):
    converted("vit", state, family("clip"))
  with pytest.raises(WeightsError, match="do not fit a SimVTP model"):
    converted("vit", state, small_simvtp())
  with pytest.raises(WeightsError, match="did you mean 'distilbert'"):
    registry.find("distil_bert")


def test_a_misnamed_key_is_named_with_its_nearest():
  state, _ = hf_cases.case("distilbert")
  good = "transformer.layer.1.ffn.lin1.weight"
  bad = good.replace("lin1", "linear1")
  broken = {bad if k == good else k: v for k, v in state.items()}
  with pytest.raises(WeightsError) as caught:
    converted("distilbert", broken, dual())
  line = str(caught.value)
  assert f"{good} is missing, the closest unused key is {bad}" in line
  assert f"{bad} is not used" in line
  assert WeightsError.exit_code == 2
  allow = (r"transformer\.layer\.1\.ffn\.lin",)
  _, report = converted("distilbert", broken, dual(), allow)
  assert "text_tower/block_1/mlp/up/kernel" in report.initialised


def test_optional_keys_may_be_missing():
  """Key biases, which have no effect, and BERT's token types."""
  state = dict(hf_cases.case("bert")[0])
  types = "embeddings.token_type_embeddings.weight"
  for key in [types, *(k for k in state if k.endswith("key.bias"))]:
    del state[key]
  params, report = converted("bert", state, dual())
  assert not [line for line in report.lines if line.status == "missing"]
  positions = state["embeddings.position_embeddings.weight"]
  ours = params["text_tower"]["embed"]["positions"]
  np.testing.assert_array_equal(ours, positions)
  state = dict(hf_cases.case("bert")[0])
  del state["embeddings.position_embeddings.weight"]
  with pytest.raises(WeightsError, match=f"{types} is of no use without"):
    converted("bert", state, dual(), (r"embeddings\.position",))


def test_non_finite_values_and_wrong_shapes_are_rejected():
  state = dict(hf_cases.case("vit")[0])
  huge = state | {"layernorm.bias": np.full(HF.WIDTH, 1e300)}
  with pytest.raises(WeightsError, match=r"layernorm\.bias.*not finite"):
    converted("vit", huge, dual())
  with pytest.raises(WeightsError, match="hardly a file of kind 'distilbert'"):
    converted("distilbert", state, dual())
  for key, shape in (
    ("embeddings.cls_token", (HF.WIDTH,)),
    ("layers.0.mlp.fc1.weight", (HF.HIDDEN,)),
    ("embeddings.patch_embeddings.projection.weight", (3, 3)),
  ):
    odd = state | {key: np.zeros(shape, "f")}
    infer.infer(infer.recipe(registry.find("vit")), "vit", registry.find("vit"), odd)
    with pytest.raises(WeightsError, match=rf"{key} .* does not fit"):
      converted("vit", odd, dual())


def test_invalid_allow_patterns_are_rejected():
  with pytest.raises(WeightsError, match=r"allow: '\(' is not a valid regular exp"):
    converted("vit", hf_cases.case("vit")[0], dual(), ("(",))
  for pattern in ("", ".*", "(text)?"):
    with pytest.raises(WeightsError, match="allows everything"):
      converted("vit", hf_cases.case("vit")[0], dual(), (pattern,))


def test_two_spellings_of_one_key_are_rejected():
  state, _ = hf_cases.case("distilbert")
  old = {"embeddings.LayerNorm.gamma": state["embeddings.LayerNorm.weight"]}
  with pytest.raises(WeightsError, match="two spellings"):
    converted("distilbert", state | old, dual())


def test_architectures_reject_unsupported_options():
  refused = lambda name, **changes: pytest.raises(
    config_lib.ConfigError, match=changes.pop("match")
  )
  for name, changes, words in (
    ("clip", dict(text_norm="post"), "text_norm"),
    ("siglip", dict(projection=12), "projection"),
    ("siglip", dict(backbone="divided", projection=HF.WIDTH), "video.name"),
    ("simvtp", dict(projection=HF.WIDTH), "pool"),
  ):
    with refused(name, match=words):
      dual(**dict(arch=name, text_norm="pre") | changes)


@pytest.mark.parametrize("name", ["clip", "siglip", "simvtp"])
@pytest.mark.parametrize("backbone", ["vit", "frame"])
def test_masked_tubelets_do_not_affect_any_architecture(name, backbone, given):
  """Selecting visible tubelets in the model or on the host gives the same output."""
  mask = MaskSpec("per_frame", 0.5, "replace", 0.0, False)
  values = change(
    mac.webvid2m_cc3m()["objective"],
    arch=name,
    video=SIZE,
    text=SIZE,
    compute=COMPUTE,
    projection=HF.WIDTH,
    backbone=backbone,
    text_norm="pre",
    pool="mean" if name == "simvtp" else "cls",
    pos_embed="flat" if name == "simvtp" else "frozen",
  )
  clip = clip_of(HF.FRAMES)
  objective = objectives.build(values, clip, TEXT, mask)
  spec = batch_lib.spec(clip, TEXT, mask, 3)
  params = draw(nn.unbox(jax.eval_shape(objective.init, jax.random.key(0), spec)))
  rng = np.random.default_rng(0)
  places = np.stack(
    [
      np.concatenate([4 * t + rng.permutation(4)[:2] for t in range(HF.FRAMES)])
      for _ in range(3)
    ]
  )
  keep = np.sort(places, axis=1).astype("i4")
  video = np.array(given["video"])
  patches = np.array(batch_lib.patchify(video, clip.tubelet_size))
  visible = np.take_along_axis(patches, keep[:, :, None], axis=1)

  @jax.jit
  def run(params, video, visible):
    call = lambda method: objective.model.apply({"params": params}, method=method)
    drop = call(lambda m: m.pool_video(m.video_tower(video, keep)))
    apart = call(lambda m: m.pool_video(m.video_tower(visible, keep)))
    return drop, apart, call(lambda m: m.pool_video(m.video_tower(video)))

  drop, apart, whole = run(params, video, visible)
  np.testing.assert_allclose(drop, apart, atol=1e-5)
  assert abs(drop - whole).max() > 1e-3


def export_case(name):
  """(objective, kind, layout) of a case; some have stacked layers."""
  stacked = dict(compute=COMPUTE | dict(scan=True))
  return dict(
    vit=lambda: (dual(**stacked), "vit", "hf_vit"),
    distilbert=lambda: (dual(), "distilbert", "distilbert"),
    bert=lambda: (dual(**stacked), "bert", "bert"),
    videomae=lambda: (small_simvtp(), "videomae", "hf_videomae"),
    clip=lambda: (family("clip", **stacked), "clip", "hf_clip"),
    openai=lambda: (family("clip"), "clip", "openai_clip"),
    open_clip=lambda: (family("open_clip"), "open_clip", "openai_clip"),
    siglip=lambda: (family("siglip", projection=HF.WIDTH), "siglip", "hf_siglip"),
  )[name]()


@pytest.mark.parametrize("name", list(hf_cases.CASES))
def test_exported_weights_equal_the_imported_ones(name):
  """But key biases are 0, and ignored keys are missing."""
  state, _ = hf_cases.case(name)
  objective, kind, layout = export_case(name)
  params, report = converted(kind, state, objective)
  flat = {k: np.asarray(v) for k, v in flatten_dict(params, sep="/").items()}
  bias = float(state.get("logit_bias", [0.0])[0])
  made, left = save.save(layout, objective.model, flat, bias)
  unused = {line.key for line in report.lines if line.status == "unused"}
  unused -= {"logit_bias"}  # config.contrastive.bias has it
  assert made.keys() == state.keys() - unused
  assert set(left) == set(stacks.shapes(flat)) & set(report.initialised)
  for key, x in made.items():
    want = np.array(state[key])
    if "position_embeddings" in key and name == "bert":
      want += state["embeddings.token_type_embeddings.weight"][0]
    elif "token_type" in key:
      want[:] = 0
    elif key.endswith(("in_proj_bias", "qkv.bias")):
      want[len(want) // 3 : -len(want) // 3] = 0
    elif key.endswith(("key.bias", "k_proj.bias", "k_lin.bias")):
      want[:] = 0
    np.testing.assert_array_equal(x, want, err_msg=key)
  if hf_cases.LIVE:
    hf_cases.check_loads(name, made, unused)


def test_weights_that_cannot_be_exported_are_reported():
  state, _ = hf_cases.case("clip")
  flat = lambda params: {
    k: np.asarray(v) for k, v in flatten_dict(params, sep="/").items()
  }
  clips = family("clip", HF.FRAMES, backbone="vit")
  params, _ = converted("clip", state, clips)
  made, _ = save.save("hf_clip", clips.model, flat(params))
  assert made.keys() == state.keys()  # time positions are 0: nothing is lost
  params["video_tower"]["time_positions"] += 1
  with pytest.raises(WeightsError, match=r"does not have video_tower/time_positions"):
    save.save("hf_clip", clips.model, flat(params))
  with pytest.raises(WeightsError, match="did you mean 'hf_clip'"):
    save.save("hf_klip", clips.model, flat(params))
  with pytest.raises(WeightsError, match="do not fit a dual encoder"):
    save.save("videomae", clips.model, flat(params))
  own, left = save.save(save.OWN, clips.model, flat(params))
  assert "video_tower.block_1.mlp.up.kernel" in own
  assert not left


@pytest.mark.parametrize(
  ("layout", "changes", "message"),
  [
    ("frozen", dict(backbone="vit"), "video.name = 'divided'"),
    ("frozen", dict(backbone="divided", pool="mean"), "pool = 'cls'"),
    ("hf_clip", dict(arch="clip", text_norm="pre", pool="mean"), "pool = 'cls'"),
    ("bert", dict(text_norm="pre"), "text_norm = 'post'"),
  ],
)
def test_exporting_to_a_layout_with_other_options_is_rejected(layout, changes, message):
  objective = dual(**changes)
  params = draw(shapes(objective, objective.model.clip))
  flat = {k: np.asarray(v) for k, v in flatten_dict(params, sep="/").items()}
  with pytest.raises(WeightsError, match=message):
    save.save(layout, objective.model, flat)


def test_a_fixed_temperature_is_exported():
  fixed = dual(arch="clip", text_norm="pre", temperature=0.01)
  params = draw(shapes(fixed, fixed.model.clip))
  params["video_tower"]["time_positions"] *= 0
  flat = {k: np.asarray(v) for k, v in flatten_dict(params, sep="/").items()}
  made, _ = save.save("hf_clip", fixed.model, flat)
  assert np.exp(made["logit_scale"]) == pytest.approx(100)


def test_an_added_mask_token_is_not_exported():
  state, _ = hf_cases.case("clip")
  objective = family("clip")
  text = TextSpec(HF.LENGTH, HF.WORDS + 1, HF.WORDS)
  grown = dataclasses.replace(objective, model=objective.model.clone(text=text))
  wanted = shapes_of(grown.model, grown.model.clip, text)
  shaped = {k: stacks.Shape(v) for k, v in wanted.items()}
  found, _ = match.match("f", "clip", registry.find("clip"), state, grown.model, shaped)
  found["video_tower/time_positions"] = np.zeros((1, HF.WIDTH), "f")
  made, _ = save.save("hf_clip", grown.model, found)
  key = "text_model.embeddings.token_embedding.weight"
  np.testing.assert_array_equal(made[key], state[key])
