"""Our outputs compared with those of the reference code, for its weights and masks.

The cases lie in tests/golden; VTR_GOLDEN_DIR names another directory of the same
layout, for fresh cases.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from golden_cases import golden
from weights import convert

from vtr_jax.core.batch import ClipSpec, MaskSpec, TextSpec, patchify
from vtr_jax.models import dual_encoder, patch_embed, pixel_decoder
from vtr_jax.models.backbones import divided
from vtr_jax.models.layers import Compute, TransformerConfig
from vtr_jax.objectives import simvtp
from vtr_jax.objectives.contrastive import DENSE, contrast
from vtr_jax.weights import save

NOTHING = MaskSpec("tube", 0.0, "replace", 0.0, False)
IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def assert_close(ours, theirs, name):
  """Within 1e-4 of the largest value of the reference array."""
  ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
  assert ours.shape == theirs.shape, name
  error = np.abs(ours - theirs).max() / np.abs(theirs).max()
  assert error < 1e-4, f"{name}: relative error {error:.2g}"


def tubelet_kernel(weight):
  """Conv2d or Conv3d [d, c, (t,) h, w] to [(t) h w c, d]."""
  return np.moveaxis(weight, (0, 1), (-1, -2)).reshape(-1, weight.shape[0])


@pytest.fixture(scope="module")
def case():
  """(model, params, batch, negatives, reference arrays) of simvtp_pretrain."""
  arrays, meta = golden("simvtp_pretrain")
  state = {k[6:]: v for k, v in arrays.items() if k.startswith("state/")}
  c = meta["config"]
  size = lambda s: TransformerConfig(s["dim"], s["depth"], 4 * s["dim"], s["heads"])
  clip = ClipSpec(
    c["frames"],
    c["img_size"],
    (c["tubelet"], c["patch_size"], c["patch_size"]),
    **IMAGENET,
  )
  text = c["text"]
  spec = TextSpec(text["max_pos"], text["vocab"], text["mask_id"])
  config = simvtp.Config(
    encoder=size(c["encoder"]),
    decoder=size(c["decoder"]),
    compute=Compute("float32", "xla", False, "none"),
    text_dropout=0.0,
    temperature=c["temperature"],
    negatives="random",
    pool="all",
    contrast_text="masked",
    pixel_target="standardized",
    pos_embed="flat",
  )
  masked = arrays["in/video_mask"]
  index = lambda mask: np.stack([np.flatnonzero(row) for row in mask]).astype("i4")
  labels = arrays["in/text_labels"]
  is_hidden = labels != -100
  batch = dict(
    video=arrays["in/video_rgb01"].transpose(0, 1, 3, 4, 2),
    video_keep_idx=index(~masked),
    video_mask_idx=index(masked),
    text_ids=arrays["in/text_ids"].astype("i4"),
    text_valid=arrays["in/attention_mask"].astype(bool),
    text_masked=is_hidden,
    valid=np.ones(len(masked), bool),
  )
  replaced = np.where(is_hidden, text["mask_id"], arrays["in/text_ids"])
  np.testing.assert_array_equal(replaced, arrays["in/text_ids_masked"])
  negatives = arrays["in/vtm_negative_video"].astype("i4")
  model = simvtp.SimVTP(clip, spec, config)
  key = jax.random.key(0)
  keys = dict(params=key, dropout=key)
  boxed = jax.eval_shape(lambda: model.init(keys, batch, key, negatives))["params"]
  params, report = convert("simvtp", state, model, nn.unbox(boxed))
  assert not report.initialised
  return model, params, batch, negatives, arrays


def test_simvtp_outputs_equal_the_reference_code(case):
  model, params, batch, negatives, want = case
  key = jax.random.key(0)
  apply = jax.jit(lambda p, b: model.apply({"params": p}, b, key, negatives))
  out = apply(params, batch)
  patches = patchify(batch["video"], model.clip.tubelet_size)
  masked = patch_embed.gather(patches, batch["video_mask_idx"])
  targets, _, _ = pixel_decoder.targets(masked, "standardized", model.clip)
  assert_close(out.joint, want["out/joint_tokens"], "joint")
  assert_close(out.pixels, want["out/pixels_at_masked"], "pixels")
  assert_close(targets.reshape(out.pixels.shape), want["out/pixel_targets"], "targets")
  assert_close(out.words, want["out/mlm_logits"], "words")
  assert_close(out.match, want["out/vtm_logits"], "match")
  assert_close(out.text, want["out/text_mean"], "text")
  assert_close(out.video, want["out/video_mean"], "video")


def test_simvtp_losses_and_gradients_equal_the_reference_code(case):
  model, params, batch, negatives, want = case

  def losses(params):
    out = simvtp.forward(model, params, None, batch, jax.random.key(0), negatives)
    terms = {name: term.mean() for name, term in out.terms.items()}
    terms["vtc"] = contrast(DENSE, *out.pairs["vtc"])
    return sum(terms.values()), terms

  (_, terms), grads = jax.jit(jax.value_and_grad(losses, has_aux=True))(params)
  for name, value in terms.items():
    golden = dict(mlm="words").get(name, name)
    assert_close(value, want[f"out/loss_{golden}"], name)
  attention = grads["encoder"]["block_0"]["attention"]
  qkv = [attention[name]["kernel"].T for name in ("query", "key", "value")]
  ours = {
    "mask_token": grads["mask_token"][None, None],
    "encoder.blocks.0.attn.qkv.weight": np.concatenate(qkv),
    "decoder.head.weight": grads["pixel_head"]["kernel"].T,
    "text_embeddings.word_embeddings.weight": grads["text_embed"]["words"],
    "vtm_head.weight": grads["match_head"]["kernel"].T,
  }
  conv = want["grad/encoder.patch_embed.proj.weight"]
  theirs = tubelet_kernel(conv)
  assert_close(grads["video_embed"]["proj"]["kernel"], theirs, "patch_embed")
  listed = {k[5:] for k in want if k.startswith("grad/")}
  assert listed == set(ours) | {"encoder.patch_embed.proj.weight"}
  for name, value in ours.items():
    assert_close(value, want["grad/" + name], name)


@pytest.fixture(scope="module")
def frozen():
  """(model, params, video, ids, valid, reference arrays) of frozen_dual."""
  arrays, meta = golden("frozen_dual")
  state = {k[6:]: v for k, v in arrays.items() if k.startswith("state/")}
  c = meta["config"]
  text, width, patch = c["text"], c["embed_dim"], c["patch_size"]
  masked = state["video_model.blocks.0.mlp.fc1.weight"].shape[0]
  config = dual_encoder.Config(
    arch="frozen",
    video=divided.Config(
      width=width,
      depth=c["depth"],
      mlp_dim=masked,
      num_heads=c["num_heads"],
      time_init="frozen",
    ),
    text=TransformerConfig(text["dim"], text["layers"], text["hidden"], text["heads"]),
    compute=Compute("float32", "xla", False, "none"),
    projection=c["proj"],
    masked_tokens="drop",
    pool="cls",
    text_norm="post",
    text_dropout=0.0,
    temperature=c["temperature"],
    learn_temperature=False,
  )
  clip = ClipSpec(c["num_frames"], c["img_size"], (1, patch, patch), **IMAGENET)
  spec = TextSpec(text["max_pos"], text["vocab"], mask_id=0)
  clips = arrays["in/video_rgb01"].transpose(0, 1, 3, 4, 2)
  ids = arrays["in/text_ids"].astype("i4")
  valid = arrays["in/attention_mask"].astype(bool)
  model = dual_encoder.DualEncoder(clip, spec, NOTHING, config)
  batch = dict(video=clips, text_ids=ids, text_valid=valid)
  both = lambda m: (m.embed_video(batch), m.embed_text(batch))
  boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), method=both))["params"]
  params, report = convert("frozen", state, model, nn.unbox(boxed))
  assert not report.initialised
  return model, params, batch, arrays


def test_frozen_outputs_equal_the_reference_code(frozen):
  model, params, batch, want = frozen

  text = batch["text_ids"], batch["text_valid"]
  whole = lambda tokens: jnp.concatenate([tokens.cls, tokens.patches], axis=1)

  @jax.jit
  def outputs(params):
    call = lambda method: model.apply({"params": params}, method=method)
    return (
      call(lambda m: whole(m.video_tower(batch["video"]))),
      call(lambda m: m.text_tower(*text, train=False)),
      call(lambda m: whole(m.video_tower(batch["video"][:, :2]))),
      call(lambda m: m.pool_video(m.video_tokens(batch))),
      call(lambda m: m.encode_text(*text, train=False)),
      call(lambda m: m.embed_text(batch) @ m.embed_video(batch).T),
    )

  tokens, texts, two_frames, video_embed, text_embed, similarity = outputs(params)
  assert_close(tokens, want["out/video_tokens"], "video tokens")
  assert_close(tokens[:, 0], want["out/video_cls"], "class token")
  assert_close(two_frames[:, 0], want["out/video_cls_2frames"], "two frames")
  assert_close(texts, want["out/text_tokens"], "text tokens")
  assert_close(video_embed, want["out/video_embed"], "video")
  assert_close(text_embed, want["out/text_embed"], "text")
  assert_close(similarity, want["out/sim_t2v"], "similarity")


def test_frozen_loss_and_gradients_equal_the_reference_code(frozen):
  model, params, batch, want = frozen

  def pair(model):
    return model.embed_video(batch), model.embed_text(batch), model.scale()

  def loss(params):
    out = model.apply({"params": params}, method=pair)
    return contrast(DENSE, *out, np.ones(len(batch["video"]), bool))

  value, grads = jax.jit(jax.value_and_grad(loss))(params)
  assert_close(value, want["out/norm_softmax_loss"], "loss")
  tower = grads["video_tower"]
  time = tower["block_0"]["time_attention"]
  qkv = [time[name]["kernel"].T for name in ("query", "key", "value")]
  ours = {
    "video_model.temporal_embed": tower["time_positions"][None],
    "video_model.blocks.0.timeattn.qkv.weight": np.concatenate(qkv),
    "text_model.embeddings.word_embeddings.weight": grads["text_tower"]["embed"][
      "words"
    ],
    "vid_proj.0.weight": grads["video_proj"]["kernel"].T,
  }
  conv = "video_model.patch_embed.proj.weight"
  assert_close(tower["proj"]["kernel"], tubelet_kernel(want["grad/" + conv]), conv)
  assert {k[5:] for k in want if k.startswith("grad/")} == set(ours) | {conv}
  for name, gradient in ours.items():
    assert_close(gradient, want["grad/" + name], name)


@pytest.mark.parametrize("layout", ["frozen", "simvtp"])
def test_exported_reference_weights_equal_the_imported_ones(layout, frozen, case):
  """Under the authors' names; but key biases and token types are exported as 0."""
  model, params, *_, arrays = frozen if layout == "frozen" else case
  flat = {k: np.asarray(v) for k, v in flatten_dict(params, sep="/").items()}
  made, left = save.save(layout, model, flat)
  state = {k[6:]: v for k, v in arrays.items() if k.startswith("state/")}
  assert not left
  assert made.keys() == state.keys()
  types = "text_embeddings.token_type_embeddings.weight"
  for key, x in made.items():
    want = np.array(state[key])
    if key.endswith("qkv.bias"):
      want[len(want) // 3 : -len(want) // 3] = 0
    elif key.endswith("k_lin.bias") or key == types:
      want[:] = 0
    elif key == "text_embeddings.position_embeddings.weight":
      want += state[types][0]
    np.testing.assert_array_equal(x, want, err_msg=key)
