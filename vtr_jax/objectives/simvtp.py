"""SimVTP: one masked autoencoder over video tubes and words (arXiv 2212.03490).

One transformer reads the visible tubelets and the partly hidden words together and
must give back the hidden pixels and words; the same transformer, reading each side
alone, aligns the two (contrastive), and judges pairs read together (matching).

The paper's: `pool='all'`, `negatives='random'`, `contrast_text='masked'`,
`pixel_target='standardized'`, `positions='flat'`, temperature 0.05, all weights 1,
tubes of 90 % of the clip and 75 % of the words.
Ours: `pool='valid'` leaves padding out of the means, as the paper's code does not;
`negatives='hard'` draws likely confusions (ALBEF, arXiv 2107.07651, section 3.2);
`contrast_text='whole'` aligns with all words, since a text whose telling word is
hidden fits many clips; `pixel_target='raw'` spends the loss where much happens, not
evenly on every flat background; `positions='space_time'` spells the axes out;
the contrastive term runs over the global batch; the matching positives are the
joint pass that the reconstruction needs anyway.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from vtr_jax.batch import Batch, ClipSpec, MaskSpec, TextSpec
from vtr_jax.config import choose, require
from vtr_jax.losses import cross_entropy, masked_mean, unit
from vtr_jax.models.layers import Compute, Dense, Size, Transformer, logical
from vtr_jax.models.text import TextEmbed
from vtr_jax.models.video import (
  POSITIONS,
  VideoEmbed,
  gather,
  patchify,
  unit_pixels,
)
from vtr_jax.objectives.base import Forward, Objective, Params, Reconstruction, method


@dataclasses.dataclass(frozen=True)
class Config:
  """Section `objective` of the config."""

  encoder: Size
  decoder: Size
  compute: Compute
  text_dropout: float  # after the text embedding
  temperature: float  # of the contrastive term, fixed
  negatives: str  # whose video a text is falsely paired with: random | hard
  pool: str  # tokens in the mean: valid | all (padding too, as the paper's code)
  contrast_text: str  # text side of the contrast: masked (paper) | whole
  pixel_target: str  # per tubelet and colour: standardized (paper) | raw
  positions: str  # index over: flat (paper) | space_time; see models/video.py

  def __post_init__(self):
    choose(self.negatives, ("random", "hard"), "negatives")
    choose(self.pool, ("valid", "all"), "pool")
    choose(self.contrast_text, ("masked", "whole"), "contrast_text")
    choose(self.pixel_target, ("standardized", "raw"), "pixel_target")
    choose(self.positions, POSITIONS, "positions")
    require(self.temperature > 0, f"temperature: {self.temperature} must be positive")


class Outputs(NamedTuple):
  """Arrays of one training pass; tokens are [visible video ; text]."""

  joint: Float[Array, "b k+l d"]
  pixels: Float[Array, "b m p"]  # at hidden tubelets, in units of `pixel_targets`
  words: Float[Array, "b l v"]  # logits
  video: Float[Array, "b d"]  # mean of the video read alone
  text: Float[Array, "b d"]  # mean of the text read alone
  match: Float[Array, "2b 2"]  # logits: all true pairs, then all false ones
  negatives: Int32[Array, "b"]  # text[i] was falsely paired with video[negatives[i]]


class SimVTP(nn.Module):
  """The unified encoder, the light pixel decoder, the word and matching heads."""

  clip: ClipSpec
  text: TextSpec
  config: Config

  def setup(self):
    c, dtype = self.config, self.config.compute.dtype
    width = c.encoder.width
    self.video_embed = VideoEmbed(self.clip, width, c.positions, dtype)
    self.text_embed = TextEmbed(self.text, width, c.text_dropout, dtype)
    self.encoder = Transformer(c.encoder, c.compute)
    self.to_decoder = Dense(c.decoder.width, ("embed", "mlp"), dtype, use_bias=False)
    self.decoder = Transformer(c.decoder, c.compute)
    init = logical(nn.initializers.truncated_normal(0.02), ("norm",))
    self.mask_token = self.param("mask_token", init, (c.decoder.width,))
    self.pixel_head = Dense(self.clip.tubelet_dim, ("embed", "pixels"), dtype)
    self.word_head = Dense(self.text.vocab_size, ("embed", "vocab"), dtype)
    self.match_head = Dense(2, ("embed", "classes"), "float32")

  def __call__(
    self, batch: Batch, key: jax.Array, negatives: Int32[Array, "b"] | None = None
  ) -> Outputs:
    """Training pass on the masked batch; `key` draws the negatives if not given."""
    keep_idx, valid = batch["video_keep_idx"], batch["text_valid"]
    x = self.embed_visible(batch["video"], keep_idx)
    ids = jnp.where(batch["text_hidden"], self.text.mask_id, batch["text_ids"])
    y = self.text_embed(ids, valid, train=True)
    joint = self.encode_pair(x, y, valid)
    k = keep_idx.shape[1]
    whole = self.config.contrast_text == "whole"
    alone = self.text_embed(batch["text_ids"], valid, train=True) if whole else y
    video = self.pool(self.encoder(x))
    text = self.pool(self.encoder(alone, valid), valid)
    if negatives is None:
      scores = unit(text) @ unit(video).T / self.config.temperature
      hard = self.config.negatives == "hard"
      negatives = draw_negatives(key, scores if hard else 0 * scores, batch["valid"])
    false = self.encode_pair(jnp.take(x, negatives, axis=0), y, valid)
    pair_valid = _pair_valid(valid, k)
    pairs = [self.pool(tokens, pair_valid) for tokens in (joint, false)]
    return Outputs(
      joint=joint,
      pixels=self.decode(joint[:, :k], keep_idx, batch["video_mask_idx"]),
      words=self.word_head(joint[:, k:]),
      video=video,
      text=text,
      match=self.match_head(jnp.concatenate(pairs)),
      negatives=negatives,
    )

  def embed_visible(
    self, video: Array, keep_idx: Int32[Array, "b k"] | None
  ) -> Float[Array, "b k d"]:
    """Tokens of the tubelets at `keep_idx`, None = all. Gathers bytes, not floats."""
    patches = patchify(video, self.clip.tubelet)
    if keep_idx is not None:
      patches = gather(patches, keep_idx)
    return self.video_embed(patches, keep_idx)

  def encode_pair(
    self,
    x: Float[Array, "b k d"],
    y: Float[Array, "b l d"],
    valid: Bool[Array, "b l"],
  ) -> Float[Array, "b k+l d"]:
    """Video and text read together."""
    tokens = jnp.concatenate([x, y], axis=1)
    return self.encoder(tokens, _pair_valid(valid, x.shape[1]))

  def decode(
    self,
    encoded: Float[Array, "b k d"],
    keep_idx: Int32[Array, "b k"],
    mask_idx: Int32[Array, "b m"],
  ) -> Float[Array, "b m p"]:
    """Pixels at the hidden places, from the encoded visible tubelets alone."""
    x = self.to_decoder(encoded)
    c = self.config
    positions = jnp.asarray(
      POSITIONS[c.positions](self.clip.grid, c.decoder.width), x.dtype
    )
    hidden = self.mask_token.astype(x.dtype) + positions[mask_idx]
    x = jnp.concatenate([x + positions[keep_idx], hidden], axis=1)
    return self.pixel_head(self.decoder(x)[:, keep_idx.shape[1] :])

  def pool(
    self, tokens: Float[Array, "b n d"], valid: Bool[Array, "b n"] | None = None
  ) -> Float[Array, "b d"]:
    """Mean over tokens, float32."""
    tokens = tokens.astype(jnp.float32)
    if valid is None or self.config.pool == "all":
      return tokens.mean(axis=1)
    weight = valid[:, :, None].astype(jnp.float32)
    return (tokens * weight).sum(axis=1) / jnp.maximum(weight.sum(axis=1), 1)

  def embed_video(self, batch: Batch) -> Float[Array, "b d"]:
    return unit(self.pool(self.encoder(self.embed_visible(batch["video"], None))))

  def embed_text(self, batch: Batch) -> Float[Array, "b d"]:
    y = self.text_embed(batch["text_ids"], batch["text_valid"], train=False)
    return unit(self.pool(self.encoder(y, batch["text_valid"]), batch["text_valid"]))

  def match(self, batch: Batch) -> Float[Array, "b"]:
    """Log-odds that video[i] and text[i] belong together, nothing hidden."""
    x = self.embed_visible(batch["video"], None)
    y = self.text_embed(batch["text_ids"], batch["text_valid"], train=False)
    joint = self.encode_pair(x, y, batch["text_valid"])
    valid = _pair_valid(batch["text_valid"], x.shape[1])
    logits = self.match_head(self.pool(joint, valid))
    return logits[:, 1] - logits[:, 0]

  def pixel_targets(self, patches: Array) -> tuple[Array, Array, Array]:
    """(targets [b m s c], mean, std) of tubelets [b m p], s places of c colours.

    Standardised: RGB in [0, 1] by mean and spread of each tubelet and colour, with
    the unbiased variance and 1e-6 added to the standard deviation, as SimVTP's
    engine_for_pretraining. Raw: by the clip's `mean` and `std` alone.
    """
    x = _by_colour(unit_pixels(patches))
    if self.config.pixel_target == "raw":
      mean, std = jnp.asarray(self.clip.mean), jnp.asarray(self.clip.std)
    else:
      mean = x.mean(axis=-2, keepdims=True)
      std = jnp.sqrt(x.var(axis=-2, ddof=1, keepdims=True)) + 1e-6
    return (x - mean) / std, mean, std

  def reconstruct(self, batch: Batch) -> Reconstruction:
    """Fills the hidden places.

    Of standardised tubelets the true mean and spread bring back the colours, as in
    VideoMAE's pictures; raw ones are predicted without such help.
    """
    keep_idx, mask_idx = batch["video_keep_idx"], batch["video_mask_idx"]
    x = self.embed_visible(batch["video"], keep_idx)
    ids = jnp.where(batch["text_hidden"], self.text.mask_id, batch["text_ids"])
    valid = batch["text_valid"]
    joint = self.encode_pair(x, self.text_embed(ids, valid, train=False), valid)
    k = keep_idx.shape[1]
    pixels = self.decode(joint[:, :k], keep_idx, mask_idx).astype(jnp.float32)
    hidden = gather(patchify(batch["video"], self.clip.tubelet), mask_idx)
    _, mean, std = self.pixel_targets(hidden)
    pixels = _by_colour(pixels) * std + mean
    words = self.word_head(joint[:, k:]).argmax(axis=-1)
    return Reconstruction(jnp.clip(pixels, 0, 1).reshape(*hidden.shape), words)


def forward(
  model: SimVTP,
  params: Params,
  batch: Batch,
  key: jax.Array,
  negatives: Int32[Array, "b"] | None = None,
) -> Forward:
  """Losses of one masked batch; `negatives` overrides the draw, for tests."""
  key, dropout = jax.random.split(key)
  out = model.apply(
    {"params": params}, batch, key, negatives, rngs={"dropout": dropout}
  )
  valid = batch["valid"]
  patches = patchify(batch["video"], model.clip.tubelet)
  targets, _, _ = model.pixel_targets(gather(patches, batch["video_mask_idx"]))
  error = jnp.square(out.pixels.astype(jnp.float32) - targets.reshape(out.pixels.shape))
  hidden = batch["text_hidden"] & valid[:, None]
  is_pair = jnp.repeat(jnp.array([1, 0]), valid.shape[0])
  counts = jnp.concatenate([valid, valid & valid[out.negatives]])
  terms = dict(
    # Rows first: each has the same count, which is 0 when nothing is hidden.
    pixels=masked_mean(error.sum(axis=(1, 2)) / max(error[0].size, 1), valid),
    words=masked_mean(cross_entropy(out.words, batch["text_ids"]), hidden),
    vtm=masked_mean(cross_entropy(out.match, is_pair), counts),
  )
  return Forward(unit(out.video), unit(out.text), 1 / model.config.temperature, terms)


def build(config: Config, clip: ClipSpec, text: TextSpec, mask: MaskSpec) -> Objective:
  model = SimVTP(clip, text, config)

  def init(key: jax.Array, batch: Batch):
    names = ("params", "dropout", "negatives")
    streams = dict(zip(names, jax.random.split(key, 3), strict=True))
    return model.init(streams, batch, streams["negatives"])["params"]

  return Objective(
    model=model,
    mask=mask,
    init=init,
    forward=lambda params, batch, key: forward(model, params, batch, key),
    embed_video=method(model, "embed_video"),
    embed_text=method(model, "embed_text"),
    terms=("pixels", "words", "vtm"),
    match=method(model, "match"),
    reconstruct=method(model, "reconstruct"),
  )


def draw_negatives(
  key: jax.Array, scores: Float[Array, "b b"], valid: Bool[Array, "b"]
) -> Int32[Array, "b"]:
  """For each text another row's video, with probability softmax(scores)."""
  scores = jax.lax.stop_gradient(scores)
  own = jnp.eye(scores.shape[0], dtype=bool)
  return jax.random.categorical(
    key, jnp.where(own, -jnp.inf, jnp.where(valid[None, :], scores, -1e9))
  )


def _by_colour(patches: Float[Array, "b m p"]) -> Float[Array, "b m s 3"]:
  *rest, values = patches.shape
  return patches.reshape(*rest, values // 3, 3)


def _pair_valid(text_valid: Bool[Array, "b l"], k: int) -> Bool[Array, "b k+l"]:
  """Validity of [k video tokens ; text]: every video token is real."""
  return jnp.pad(text_valid, ((0, 0), (k, 0)), constant_values=True)
