"""MAC: masking, learning, and a run of the loop."""

import dataclasses

import dual_cases
import flax.linen as nn
import jax
import numpy as np
import pytest
from dual_cases import CLIP, PER_FRAME, TUBE, with_masked_pixels_changed
from weights import draw

from configs import mac as mac_config
from vtr_jax.core.batch import ClipSpec, patchify
from vtr_jax.core.config import read
from vtr_jax.core.errors import ConfigError
from vtr_jax.data import loader
from vtr_jax.data.tokenizers.base import SentencePiece
from vtr_jax.train.config import TrainConfig
from vtr_jax.train.loop import train_and_evaluate
from vtr_jax.train.loss import Loss

BOTH = pytest.mark.parametrize(
  ("backbone", "mask"), [("vit", PER_FRAME), ("divided", TUBE)]
)


def make(mask=PER_FRAME, depth=1, compute=None, **changes):
  """(objective, parameters, batch) at the smoke size, the paper's towers."""
  values = mac_config.get_config("smoke").objective.to_dict()
  changes = dict(text_norm="post", pos_embed="frozen", pool="cls") | changes
  values = dual_cases.change(values, **changes)
  values["compute"] |= compute or {}
  return dual_cases.make(values, mask, depth)


def forward(objective, params, batch, seed=1):
  """The embeddings of videos (a) and texts (b)."""
  key = jax.random.key(seed)
  return jax.jit(objective.forward)(params, None, batch, key).pairs["vtc"]


@BOTH
def test_masked_tubelets_and_tokens_do_not_affect_training_embeddings(backbone, mask):
  objective, params, batch = make(mask, backbone=backbone)

  @jax.jit
  def encode(batch):
    out = objective.forward(params, None, batch, jax.random.key(0))
    names = ("embed_video", "embed_text")
    whole = [objective.predict[name](params, batch) for name in names]
    assert out.terms == {}
    return out.pairs["vtc"].a, out.pairs["vtc"].b, *whole

  ids = np.where(batch["text_masked"], 9, batch["text_ids"])
  other = with_masked_pixels_changed(batch) | dict(text_ids=ids)
  video, text, whole_video, whole_text = before = encode(batch)
  after = encode(other)
  np.testing.assert_allclose(after[0], video, atol=1e-6)
  np.testing.assert_allclose(after[1], text, atol=1e-6)
  # Inference masks nothing.
  for x, other in zip(before[2:], after[2:], strict=True):
    assert abs(x - other).max() > 1e-3
  assert abs(whole_video - video).max() > 1e-3
  assert abs(whole_text - text).max() > 1e-3
  for x in before:
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-5)


def test_visible_tubelets_alone_give_the_same_embeddings():
  """Selected on the host, so that no masked pixel is sent to the device."""
  objective, params, batch = make()
  sent = dataclasses.replace(PER_FRAME, visible_only=True)
  other, _, _ = make(sent)
  tubelets = patchify(batch["video"], CLIP.tubelet_size)
  visible = np.take_along_axis(tubelets, batch["video_keep_idx"][:, :, None], axis=1)
  less = {k: v for k, v in batch.items() if k != "video"} | dict(video_visible=visible)
  assert less["video_visible"].nbytes * 2 == batch["video"].nbytes
  want, got = forward(objective, params, batch), forward(other, params, less)
  np.testing.assert_allclose(got.a, want.a, atol=1e-6)


def test_the_loader_selects_the_visible_tubelets(data_dir):
  """They equal those of the full clips that it sends without `visible_only`."""
  config = read(TrainConfig, mac_config.get_config("smoke").to_dict())
  data = dataclasses.replace(config.data, dir=str(data_dir))
  (model,) = data_dir.glob("moving_shapes/tiny/*/tokenizer.model")
  found = []
  for visible_only in (False, True):
    mask = dataclasses.replace(config.mask, visible_only=visible_only)
    tokenizer = SentencePiece(str(model))
    with loader.train_batches(
      data, config.clip, config.text, mask, tokenizer, batch_size=4, seed=0
    ) as batches:
      found.append(next(batches))
  whole, less = found
  tubelets = patchify(whole["video"], config.clip.tubelet_size)
  want = np.take_along_axis(tubelets, whole["video_keep_idx"][:, :, None], axis=1)
  np.testing.assert_array_equal(less["video_visible"], want)
  assert "video" not in less


@BOTH
def test_masked_tubelets_cost_no_flops(backbone, mask):
  objective, params, batch = make(mask, backbone=backbone)

  def flops(keep_idx):
    encode = lambda m: m.video_tower(batch["video"], keep_idx)
    call = lambda p: objective.model.apply({"params": p}, method=encode)
    return jax.jit(call).lower(params).cost_analysis()["flops"]

  assert flops(batch["video_keep_idx"]) < 0.6 * flops(None)


@pytest.mark.parametrize("text_norm", ["post", "pre"])
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_padding_does_not_affect_text_embeddings(text_norm, pool):
  objective, params, batch = make(text_norm=text_norm, pool=pool)
  junk = np.where(batch["text_valid"], batch["text_ids"], 17)
  assert (junk != batch["text_ids"]).any()
  embed = jax.jit(objective.predict["embed_text"])
  np.testing.assert_allclose(
    embed(params, batch | dict(text_ids=junk)), embed(params, batch), atol=1e-6
  )


@pytest.mark.parametrize("backbone", ["vit", "divided"])
def test_an_image_is_a_one_frame_video(backbone):
  """A model of 4 frames embeds it like a model of 1 frame with the same weights."""
  objective, params, batch = make(TUBE, backbone=backbone)
  image = batch["video"][:, :1]
  clip = ClipSpec(1, CLIP.image_size, CLIP.tubelet_size, CLIP.mean, CLIP.std)
  tower = params["video_tower"]
  short = tower | dict(time_positions=tower["time_positions"][:1])

  @jax.jit
  def encode(params):
    model = objective.model.clone(clip=clip)
    variables = {"params": params | dict(video_tower=short)}
    return (
      objective.predict["embed_video"](params, dict(video=image)),
      model.apply(variables, dict(video=image), method="embed_video"),
      objective.predict["embed_video"](params, batch),
    )

  got, want, whole = encode(params)
  np.testing.assert_allclose(got, want, atol=1e-6)
  assert abs(got - whole).max() > 1e-3


@pytest.mark.nightly
def test_scan_and_remat_give_the_same_loss_and_gradient():
  """Both towers, divided attention; the gradient is checked in one direction."""
  changes = dict(mask=TUBE, depth=2, backbone="divided")
  plain, params, batch = make(**changes)
  other, _, _ = make(**changes, compute=dict(scan=True, remat="full"))

  def stack(tree):
    """block_0, block_1 -> blocks, in both towers."""
    tree = dict(tree)
    for name in ("video_tower", "text_tower"):
      tower = dict(tree[name])
      layers = [tower.pop(f"block_{i}") for i in range(2)]
      tower["blocks"] = jax.tree.map(lambda *x: np.stack(x), *layers)
      tree[name] = tower
    return tree

  def loss(objective):
    key = jax.random.key(1)
    total = Loss(objective, {"vtc": 1.0}).total
    return lambda p: total(p, None, batch, key)[0]

  want = jax.jit(loss(plain))
  got, grads = jax.jit(jax.value_and_grad(loss(other)))(stack(params))
  np.testing.assert_allclose(got, want(params), rtol=1e-5)
  away = draw(params, seed=2)
  move = lambda step: jax.tree.map(lambda p, d: p + step * d, params, away)
  slope = (want(move(1e-3)) - want(move(-1e-3))) / 2e-3
  pairs = jax.tree.leaves(jax.tree.map(np.vdot, grads, stack(away)))
  np.testing.assert_allclose(sum(pairs), slope, rtol=0.02)


def test_text_dropout_follows_the_key():
  objective, params, batch = make(text_dropout=0.5, compute=dict(scan=True))
  run = jax.jit(
    lambda seed: objective.forward(params, None, batch, jax.random.key(seed)).pairs
  )
  one, same, two = run(1), run(1), run(2)
  one, same, two = (pairs["vtc"] for pairs in (one, same, two))
  np.testing.assert_array_equal(one.b, same.b)
  assert abs(one.b - two.b).max() > 1e-3
  np.testing.assert_array_equal(one.a, two.a)


def test_bfloat16_is_close_to_float32_and_keeps_float32_parameters():
  exact, params, batch = make(TUBE, backbone="divided")
  rough, own, _ = make(TUBE, backbone="divided", compute=dict(dtype="bfloat16"))
  assert {p.dtype for p in jax.tree.leaves(own)} == {np.dtype("float32")}
  want, got = forward(exact, params, batch), forward(rough, params, batch)
  assert got.a.dtype == got.b.dtype == np.float32
  np.testing.assert_allclose(got.a, want.a, atol=0.05)
  np.testing.assert_allclose(got.b, want.b, atol=0.05)


def test_the_learned_temperature_is_bounded_and_keeps_its_gradient():
  """It starts at 1 / temperature; above the bound the gradient still leads back."""
  objective, params, _ = make(learn_temperature=True)
  first = objective.model.clone().init(jax.random.key(0), method="scale")
  assert np.exp(nn.unbox(first)["params"]["logit_scale"]) == pytest.approx(20)

  def scale(value):
    variables = {"params": params | dict(logit_scale=value)}
    return objective.model.apply(variables, method="scale")

  for value, want in ((1.5, np.exp(1.5)), (10.0, 100)):
    got, slope = jax.value_and_grad(scale)(value)
    np.testing.assert_allclose((got, slope), want, rtol=1e-5)
  fixed, params, _ = make()
  assert "logit_scale" not in params
  assert fixed.model.apply({"params": params}, method="scale") == pytest.approx(20)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(backbone="divided"), "config.mask.video: 'per_frame' masks other patches"),
    (dict(backbone="dividde"), "did you mean 'divided'?"),
    (dict(time_init="frozn"), "did you mean 'frozen'?"),
    (dict(learn_temperature=True, temperature=0.001), "temperature: 0.001 is below"),
  ],
)
def test_invalid_configs_are_rejected(changes, message):
  with pytest.raises(ConfigError) as e:
    make(**changes)
  assert message in str(e.value)


def test_the_paper_recipe_has_the_paper_s_mask_and_parameter_counts():
  c = read(TrainConfig, mac_config.get_config("webvid2m_cc3m").to_dict())
  assert c.clip.grid == (4, 14, 14)
  assert c.mask.num_masked(c.clip.grid) == 4 * 117  # 60 % of the 196 of each frame
  params = jax.eval_shape(c.make_objective().init, jax.random.key(0), c.spec())
  count = lambda tree: sum(p.size for p in jax.tree.leaves(tree))
  # ViT-B/16 and DistilBERT without their heads and key biases.
  assert count(params["video_tower"]) == 85_798_656 + 4 * 768 - 12 * 768
  assert count(params["text_tower"]) == 66_362_880 - (512 - 64) * 768 - 6 * 768


@pytest.mark.nightly
def test_mac_trains_and_evaluates_in_the_training_loop(data_dir, tmp_path):
  """With the masks of the loader, the sharded step and the evaluators of the config."""
  config = mac_config.get_config("smoke").to_dict()
  config |= dict(steps=2, evals=dict(test=config["evals"]["test"]))
  config["data"]["dir"] = str(data_dir)
  config["optim"]["warmup_steps"] = 1
  with jax.numpy_dtype_promotion("standard"):  # optax's arithmetic
    results = train_and_evaluate(config, tmp_path / "mac")
  assert {"test/t2v/R@1", "test/v2t/MedR"} <= set(results)
