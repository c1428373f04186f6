"""SimVTP: one masked autoencoder over video tubes and words (arXiv 2212.03490).

One transformer reads the visible tubelets and the partly hidden words together and
must reconstruct the masked pixels and words; the same transformer, reading each side
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
import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.batch import Batch, ClipSpec, MaskSpec, TextSpec, patchify
from vtr_jax.core.config import choose, require
from vtr_jax.models import pixel_decoder
from vtr_jax.models.layers import (
  Compute,
  Dense,
  Transformer,
  TransformerConfig,
  l2_normalize,
)
from vtr_jax.models.patch_embed import POSITIONS, VideoEmbed, gather
from vtr_jax.models.pixel_decoder import PixelDecoder
from vtr_jax.models.text_embed import TextEmbed
from vtr_jax.objectives.base import (
  Forward,
  Objective,
  Params,
  Reconstruction,
  features_of,
  method,
)
from vtr_jax.objectives.losses import cross_entropy, masked_mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Section `objective` of the config."""

  encoder: TransformerConfig
  decoder: TransformerConfig
  compute: Compute = dataclasses.field(default_factory=Compute)
  text_dropout: float  # after the text embedding
  temperature: float = 0.05  # of the contrastive term, fixed; code
  # whose video a text is falsely paired with: random | hard; code
  negatives: str = "random"
  # tokens in the mean: valid | all (padding too, as the paper's code); ours
  pool: str = "valid"
  contrast_text: str  # text side of the contrast: masked (paper) | whole
  pixel_target: str  # per tubelet and colour: standardized (paper) | raw
  pos_embed: str  # index over: flat (paper) | space_time; see models/video.py

  def __post_init__(self):
    choose(self.negatives, ("random", "hard"), "negatives")
    choose(self.pool, ("valid", "all"), "pool")
    choose(self.contrast_text, ("masked", "whole"), "contrast_text")
    choose(self.pixel_target, pixel_decoder.TARGETS, "pixel_target")
    choose(self.pos_embed, POSITIONS, "pos_embed")
    require(self.temperature > 0, f"temperature: {self.temperature} must be positive")


class Outputs(NamedTuple):
  """Arrays of one training pass; tokens are [visible video ; text]."""

  joint: Float[Array, "b k+l d"]
  pixels: Float[Array, "b m p"]  # at hidden tubelets, in units of `pixels.targets`
  words: Float[Array, "b l v"]  # logits
  video: Float[Array, "b d"]  # mean of the video read alone
  text: Float[Array, "b d"]  # mean of the text read alone
  match: Float[Array, "2b 2"]  # logits: all true pairs, then all false ones
  negatives: Int32[
    AnyArray, " b"
  ]  # text[i] was falsely paired with video[negatives[i]]


class SimVTP(nn.Module):
  """The unified encoder, the light pixel decoder, the word and matching heads."""

  clip: ClipSpec
  text: TextSpec
  config: Config

  def setup(self):
    c, dtype = self.config, self.config.compute.dtype
    width = c.encoder.width
    self.video_embed = VideoEmbed(self.clip, width, c.pos_embed, dtype)
    self.text_embed = TextEmbed(self.text, width, c.text_dropout, dtype)
    self.encoder = Transformer(c.encoder, c.compute)
    self.rebuild = PixelDecoder(self.clip, c.decoder, c.compute, c.pos_embed)
    nn.share_scope(self, self.rebuild)
    self.word_head = Dense(self.text.vocab_size, ("embed", "vocab"), dtype)
    self.match_head = Dense(2, ("embed", "classes"), "float32")

  def __call__(
    self, batch: Batch, key: jax.Array, negatives: Int32[AnyArray, " b"] | None = None
  ) -> Outputs:
    """Training pass on the masked batch; `key` draws the negatives if not given."""
    keep_idx, valid = batch["video_keep_idx"], batch["text_valid"]
    x = self.embed_visible(batch["video"], keep_idx)
    ids = jnp.where(batch["text_masked"], self.text.mask_id, batch["text_ids"])
    y = self.text_embed(ids, valid, train=True)
    joint = self.encode_pair(x, y, valid)
    k = keep_idx.shape[1]
    whole = self.config.contrast_text == "whole"
    alone = self.text_embed(batch["text_ids"], valid, train=True) if whole else y
    video = self.pool(self.encoder(x))
    text = self.pool(self.encoder(alone, valid), valid)
    if negatives is None:
      scores = l2_normalize(text) @ l2_normalize(video).T / self.config.temperature
      hard = self.config.negatives == "hard"
      negatives = draw_negatives(key, scores if hard else 0 * scores, batch["valid"])
    false = self.encode_pair(jnp.take(x, negatives, axis=0), y, valid)
    pair_valid = _pair_valid(valid, k)
    pairs = [self.pool(tokens, pair_valid) for tokens in (joint, false)]
    return Outputs(
      joint=joint,
      pixels=self.rebuild(joint[:, :k], keep_idx, batch["video_mask_idx"]),
      words=self.word_head(joint[:, k:]),
      video=video,
      text=text,
      match=self.match_head(jnp.concatenate(pairs)),
      negatives=negatives,
    )

  def embed_visible(
    self, video: AnyArray, keep_idx: Int32[AnyArray, "b k"] | None
  ) -> Float[Array, "b k d"]:
    """Tokens of the tubelets at `keep_idx`, None = all. Gathers bytes, not floats."""
    patches = patchify(video, self.clip.tubelet_size)
    if keep_idx is not None:
      patches = gather(patches, keep_idx)
    return self.video_embed(patches, keep_idx)

  def encode_pair(
    self,
    x: Float[Array, "b k d"],
    y: Float[Array, "b l d"],
    valid: Bool[AnyArray, "b l"],
  ) -> Float[Array, "b k+l d"]:
    """Video and text read together."""
    tokens = jnp.concatenate([x, y], axis=1)
    return self.encoder(tokens, _pair_valid(valid, x.shape[1]))

  def pool(
    self, tokens: Float[Array, "b n d"], valid: Bool[AnyArray, "b n"] | None = None
  ) -> Float[Array, "b d"]:
    """Mean over tokens, float32."""
    tokens = tokens.astype(jnp.float32)
    if valid is None or self.config.pool == "all":
      return tokens.mean(axis=1)
    weight = valid[:, :, None].astype(jnp.float32)
    return (tokens * weight).sum(axis=1) / jnp.maximum(weight.sum(axis=1), 1)

  def video_features(
    self, batch: Batch
  ) -> tuple[Float[Array, "b d"], Float[Array, "b n d"]]:
    """(mean, tokens) of whole clips, read alone."""
    tokens = self.encoder(self.embed_visible(batch["video"], None))
    return self.pool(tokens), tokens

  def encode_video(self, batch: Batch) -> Float[Array, "b d"]:
    """Means over a whole clip's tokens, not normalised."""
    return self.video_features(batch)[0]

  def embed_video(self, batch: Batch) -> Float[Array, "b d"]:
    return l2_normalize(self.encode_video(batch))

  def embed_text(self, batch: Batch) -> Float[Array, "b d"]:
    y = self.text_embed(batch["text_ids"], batch["text_valid"], train=False)
    return l2_normalize(
      self.pool(self.encoder(y, batch["text_valid"]), batch["text_valid"])
    )

  def embed_patches(self, batch: Batch) -> Float[Array, "b n d"]:
    """Each tubelet of a whole clip, read without words, unit norm."""
    tokens = self.encoder(self.embed_visible(batch["video"], None))
    return l2_normalize(tokens.astype(jnp.float32))

  def embed_tokens(self, batch: Batch) -> Float[Array, "b l d"]:
    """Each token of a whole caption, read without a video, unit norm."""
    y = self.text_embed(batch["text_ids"], batch["text_valid"], train=False)
    return l2_normalize(self.encoder(y, batch["text_valid"]).astype(jnp.float32))

  def match(self, batch: Batch) -> Float[Array, " b"]:
    """Log-odds that video[i] and text[i] belong together, nothing hidden."""
    x = self.embed_visible(batch["video"], None)
    y = self.text_embed(batch["text_ids"], batch["text_valid"], train=False)
    joint = self.encode_pair(x, y, batch["text_valid"])
    valid = _pair_valid(batch["text_valid"], x.shape[1])
    logits = self.match_head(self.pool(joint, valid))
    return logits[:, 1] - logits[:, 0]

  def reconstruct(self, batch: Batch) -> Reconstruction:
    """Fills the hidden places."""
    keep_idx, valid = batch["video_keep_idx"], batch["text_valid"]
    x = self.embed_visible(batch["video"], keep_idx)
    ids = jnp.where(batch["text_masked"], self.text.mask_id, batch["text_ids"])
    joint = self.encode_pair(x, self.text_embed(ids, valid, train=False), valid)
    k = keep_idx.shape[1]
    rebuilt = self.rebuild(joint[:, :k], keep_idx, batch["video_mask_idx"])
    words = self.word_head(joint[:, k:]).argmax(axis=-1)
    kind = self.config.pixel_target
    return Reconstruction(pixel_decoder.to_rgb(rebuilt, batch, kind, self.clip), words)


def forward(
  model: SimVTP,
  params: Params,
  teacher: None,
  batch: Batch,
  key: jax.Array,
  negatives: Int32[AnyArray, " b"] | None = None,
) -> Forward:
  """Losses of one masked batch; `negatives` overrides the draw, for tests."""
  del teacher
  key, dropout = jax.random.split(key)
  out = model.apply(
    {"params": params}, batch, key, negatives, rngs={"dropout": dropout}
  )
  valid = batch["valid"]
  error = pixel_decoder.errors(out.pixels, batch, model.config.pixel_target, model.clip)
  hidden = batch["text_masked"] & valid[:, None]
  is_pair = jnp.repeat(jnp.array([1, 0]), valid.shape[0])
  counts = jnp.concatenate([valid, valid & valid[out.negatives]])
  terms = dict(
    pixels=masked_mean(error, valid),
    mlm=masked_mean(cross_entropy(out.words, batch["text_ids"]), hidden),
    vtm=masked_mean(cross_entropy(out.match, is_pair), counts),
  )
  return Forward(
    l2_normalize(out.video), l2_normalize(out.text), 1 / model.config.temperature, terms
  )


def build(config: Config, clip: ClipSpec, text: TextSpec, mask: MaskSpec) -> Objective:
  """Builds the objective.

  Raises:
    ConfigError: words are left out, which leaves nothing at their places to predict.
  """
  require(
    mask.text == "replace",
    f"config.mask.text: {mask.text!r} leaves hidden words out, but SimVTP predicts "
    "them at their places; set 'replace'",
  )
  model = SimVTP(clip, text, config)

  def init(key: jax.Array, batch: Batch):
    names = ("params", "dropout", "negatives")
    streams = dict(zip(names, jax.random.split(key, 3), strict=True))
    return model.init(streams, batch, streams["negatives"])["params"]

  return Objective(
    model=model,
    mask=mask,
    init=init,
    forward=functools.partial(forward, model),
    embed_video=method(model, "embed_video"),
    encode_video=method(model, "encode_video"),
    embed_text=method(model, "embed_text"),
    embed_patches=method(model, "embed_patches"),
    embed_tokens=method(model, "embed_tokens"),
    video_features=features_of(model),
    terms=("pixels", "mlm", "vtm"),
    match=method(model, "match"),
    reconstruct=method(model, "reconstruct"),
  )


def draw_negatives(
  key: jax.Array, scores: Float[Array, "b b"], valid: Bool[AnyArray, " b"]
) -> Int32[Array, " b"]:
  """For each text another row's video, with probability softmax(scores)."""
  scores = jax.lax.stop_gradient(scores)
  own = jnp.eye(scores.shape[0], dtype=bool)
  return jax.random.categorical(
    key, jnp.where(own, -jnp.inf, jnp.where(valid[None, :], scores, -1e9))
  )


def _pair_valid(text_valid: Bool[AnyArray, "b l"], k: int) -> Bool[Array, "b {k}+l"]:
  """Validity of [k video tokens ; text]: every video token is real."""
  return jnp.pad(text_valid, ((0, 0), (k, 0)), constant_values=True)
