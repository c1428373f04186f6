"""SimVTP: one masked autoencoder over video tubes and text (arXiv 2212.03490).

One transformer encodes visible tubelets and masked text jointly, to reconstruct masked
pixels and tokens; the same transformer encodes each modality separately for the
contrastive loss, and true and false pairs jointly for video-text matching. All of these
are rows of one pass, which reads the weights and sums their gradients once; hard false
pairs depend on the others' embeddings and need a second one.

The paper's: `pool='all'`, `negatives='random'`, `contrast_text='masked'`,
`pixel_target='standardized'`, `pos_embed='flat'`, temperature 0.05, all weights 1,
90 % of the tubes and 75 % of the tokens masked.
Ours: `pool='valid'` excludes padding from means, which the paper's code includes;
`negatives='hard'` samples similar pairs (ALBEF, arXiv 2107.07651, section 3.2);
`contrast_text='whole'` contrasts unmasked captions, since one whose informative token
is masked fits many clips; `pixel_target='raw'` weights tubelets by their contrast,
instead of uniform background as much as motion; `pos_embed='space_time'` encodes the
axes separately; the contrastive loss is over the global batch; the positives of
matching are the joint encoding that is computed for reconstruction.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from vtr_jax.core.arrays import AnyArray
from vtr_jax.core.batch import Batch, ClipSpec, MaskSpec, TextSpec, patchify
from vtr_jax.core.config import choose, require
from vtr_jax.models import dual_encoder, pair_rows, pixel_decoder
from vtr_jax.models.depth import layer_of, layers_above
from vtr_jax.models.layers import (
  Compute,
  Dense,
  Transformer,
  TransformerConfig,
  l2_normalize,
)
from vtr_jax.models.pair_rows import Rows, pair, valid_tokens
from vtr_jax.models.patch_embed import POSITIONS, VideoEmbed, gather
from vtr_jax.models.pixel_decoder import PixelDecoder
from vtr_jax.models.pooling import VideoFeatures
from vtr_jax.models.text_embed import TextEmbed
from vtr_jax.objectives.base import (
  Objective,
  Outputs,
  Pairs,
  Params,
  Reconstruction,
  apply,
  dropout,
  methods,
)
from vtr_jax.objectives.draws import choose_masked, every, other_rows, take_rows
from vtr_jax.objectives.losses import at_masked, cross_entropy, masked_sum


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Section `objective` of the config."""

  encoder: TransformerConfig
  decoder: TransformerConfig
  compute: Compute = dataclasses.field(default_factory=Compute)
  text_dropout: float  # after the text embedding
  temperature: float = 0.05  # of the contrastive term, fixed; code
  # sampling of false pairs for matching: random | hard; code
  negatives: str = "random"
  # rows of the batch that form a group, within which false pairs are drawn; 0 = all;
  # ours (code: the 16 of one GPU)
  negatives_group: int = 0
  # reconstruction and matching read one row in so many, with its false pair; code: 1
  joint_one_in: int = 1
  # one masked tubelet in so many is predicted, drawn for each row; code: 1
  pixels_one_in: int = 1
  # tokens in the mean: valid | all (padding too, as the paper's code); ours
  pool: str = "valid"
  # whether the encoder reads all rows of a step in one pass; separate passes take fewer
  # FLOPs and more bytes, which suits a CPU; ours (code: separate)
  one_pass: bool = True
  contrast_text: str  # caption of the contrastive term: masked (paper) | whole
  pixel_target: str  # per tubelet and colour: standardized (paper) | raw
  pos_embed: str  # flat (paper) | space_time; see models/patch_embed.py

  def __post_init__(self):
    choose(self.negatives, ("random", "hard"), "negatives")
    choose(self.pool, ("valid", "all"), "pool")
    choose(self.contrast_text, ("masked", "whole"), "contrast_text")
    choose(self.pixel_target, pixel_decoder.TARGETS, "pixel_target")
    choose(self.pos_embed, POSITIONS, "pos_embed")
    require(self.temperature > 0, f"temperature: {self.temperature} must be positive")
    group = self.negatives_group
    require(
      group >= 0 and group != 1,
      f"negatives_group: {group} rows have no false pair; use 2 or more, 0 = all",
    )
    require(self.pixels_one_in > 0, f"pixels_one_in: {self.pixels_one_in} is below 1")
    one_in = self.joint_one_in
    require(
      one_in > 0 and group % one_in == 0,
      f"joint_one_in: {one_in} does not divide negatives_group = {group}",
    )


class Encoded(NamedTuple):
  """Output of one training pass over b rows, m of them jointly (`joint_rows`)."""

  joint: Float[Array, "m k+l d"]  # tokens [visible video ; text]
  pixels: Float[Array, "m p c"]  # at mask_idx, normalised as `pixel_decoder.targets`
  mask_idx: Int32[AnyArray, "m p"]  # masked tubelets that are predicted
  words: Float[Array, "m w v"]  # logits at `w` positions, all masked ones among them
  word_ids: Int32[AnyArray, "m w"]  # tokens there, see `losses.at_masked`
  word_masked: Bool[AnyArray, "m w"]
  video: Float[Array, "b d"]  # mean of the video encoded alone
  text: Float[Array, "b d"]  # mean of the text encoded alone
  match: Float[Array, "2m 2"]  # logits of true pairs, then of their false ones
  match_valid: Bool[AnyArray, " 2m"]  # pairs that count


class SimVTP(nn.Module):
  """The unified encoder, the light pixel decoder, the word and matching heads."""

  clip: ClipSpec
  text: TextSpec
  config: Config
  max_masked: int | None = None  # masked tokens of a row at most; None = all

  def setup(self):
    c, dtype = self.config, self.config.compute.dtype
    width = c.encoder.width
    self.video_embed = VideoEmbed(self.clip, width, c.pos_embed, dtype)
    self.text_embed = TextEmbed(self.text, width, c.text_dropout, dtype)
    self.encoder = Transformer(c.encoder, c.compute)
    self.pixel_decoder = PixelDecoder(self.clip, c.decoder, c.compute, c.pos_embed)
    nn.share_scope(self, self.pixel_decoder)
    self.word_head = Dense(self.text.vocab_size, ("embed", "vocab"), dtype)
    self.match_head = Dense(2, ("embed", "classes"), "float32")

  @nn.nowrap
  def layers_above(self, path: str) -> int | range:
    """Layers of the encoder that follow a parameter, see `optim.by_layer`."""
    tower, _, rest = path.partition("/")
    depth = self.config.encoder.depth
    if tower == "encoder":
      return layers_above(layer_of(rest, depth), depth)
    return depth + 1 if tower in ("video_embed", "text_embed") else 0

  def __call__(
    self, batch: Batch, key: jax.Array, negatives: Int32[AnyArray, " b"] | None = None
  ) -> Encoded:
    """Training pass on the masked batch; `key` samples negatives if not given."""
    valid = batch["text_valid"]
    x = self.embed_visible(batch["video"], batch["video_keep_idx"])
    ids = jnp.where(batch["text_masked"], self.text.mask_id, batch["text_ids"])
    y = self.text_embed(ids, valid, train=True)
    contrast_text = y
    if self.config.contrast_text == "whole":
      contrast_text = self.text_embed(batch["text_ids"], valid, train=True)
    k, some = x.shape[1], joint_rows(self.config, batch)
    y = every(y, self.config.joint_one_in)
    true = pair(every(x, self.config.joint_one_in), y, some["text_valid"])
    rows = [true, pair(x, contrast_text, valid, apart=True)]
    joined = "false_visible" in batch
    if negatives is None and self.config.negatives == "random" and not joined:
      negatives = draw_negatives(self.config, None, None, batch, key)
    known = joined or negatives is not None
    if known:
      false, false_valid = self.false_videos(batch, x, negatives)
      rows.append(pair(false, y, some["text_valid"]))
    joint, apart, *wrong = self.encode_rows(rows)
    video, text = self.pool(apart[:, :k]), self.pool(apart[:, k:], valid)
    if not known:
      negatives = draw_negatives(self.config, video, text, batch, key)
      false, false_valid = self.false_videos(batch, x, negatives)
      wrong = [self.encode_parts(pair(false, y, some["text_valid"]))]
    mask_idx = choose_masked(some, key, self.config.pixels_one_in)
    words, word_ids, word_masked = at_masked(
      some["text_masked"],
      y.shape[1] if self.max_masked is None else self.max_masked,
      joint[:, k:],
      some["text_ids"],
      some["text_masked"],
    )
    return Encoded(
      joint=joint,
      pixels=self.pixel_decoder(joint[:, :k], some["video_keep_idx"], mask_idx),
      mask_idx=mask_idx,
      words=self.word_head(words),
      word_ids=word_ids,
      word_masked=word_masked,
      video=video,
      text=text,
      match=self.match_head(
        jnp.concatenate([self.pool(t, true.valid) for t in (joint, *wrong)])
      ),
      match_valid=jnp.concatenate([some["valid"], some["valid"] & false_valid]),
    )

  def false_videos(
    self,
    batch: Batch,
    x: Float[Array, "b k d"],
    negatives: Int32[AnyArray, " b"] | None,
  ) -> tuple[Float[Array, "m k d"], Bool[AnyArray, " m"]]:
    """(embedded tubelets of the false pairs, which of these count)."""
    if "false_visible" in batch:  # see `join_rows`
      some = joint_rows(self.config, batch)
      false = self.video_embed(some["false_visible"], some["false_keep_idx"])
      return false, some["false_valid"]
    assert negatives is not None
    idx = every(negatives, self.config.joint_one_in)
    false = take_rows(x, idx, self.config.negatives_group)
    return false, jnp.asarray(batch["valid"])[idx]

  def encode_rows(self, rows: list[Rows]) -> list[Float[Array, "_ n d"]]:
    """Encodes several sets of rows; in one pass, a device encodes its own rows."""
    if not self.config.one_pass:
      return [self.encode_parts(r) for r in rows]
    blocks = len(rows[0].tokens)  # of a joint row, its group, a false pair
    encoded = self.encoder(*pair_rows.join(rows, blocks))
    return pair_rows.separate(encoded, rows, blocks)

  def encode_parts(self, rows: Rows) -> Float[Array, "_ n d"]:
    """Encodes one set of rows; of tokens that do not see each other, one by one."""
    if rows.split is None:
      return self.encoder(rows.tokens, rows.valid)
    video, text = jnp.split(rows.tokens, [rows.split], axis=1)
    valid = rows.valid[:, rows.split :]
    return jnp.concatenate([self.encoder(video), self.encoder(text, valid)], axis=1)

  def embed_visible(
    self, video: AnyArray, keep_idx: Int32[AnyArray, "b k"] | None
  ) -> Float[Array, "b k d"]:
    """Tokens of the tubelets at `keep_idx`, None = all."""
    patches = patchify(video, self.clip.tubelet_size)
    if keep_idx is not None:
      patches = gather(patches, keep_idx)  # of bytes, before they are floats
    return self.video_embed(patches, keep_idx)

  def encode_pair(
    self,
    x: Float[Array, "b k d"],
    y: Float[Array, "b l d"],
    valid: Bool[AnyArray, "b l"],
  ) -> Float[Array, "b k+l d"]:
    """Joint encoding of video and text."""
    return self.encode_parts(pair(x, y, valid))

  def pool(
    self, tokens: Float[Array, "b n d"], valid: Bool[AnyArray, "b n"] | None = None
  ) -> Float[Array, "b d"]:
    """Mean over tokens, in float32."""
    tokens = tokens.astype(jnp.float32)
    if valid is None or self.config.pool == "all":
      return tokens.mean(axis=1)
    weight = valid[:, :, None].astype(jnp.float32)
    return (tokens * weight).sum(axis=1) / jnp.maximum(weight.sum(axis=1), 1)

  def video_features(self, batch: Batch) -> VideoFeatures:
    """Features of unmasked clips, encoded without text."""
    tokens = self.encoder(self.embed_visible(batch["video"], None))
    return VideoFeatures(self.pool(tokens), tokens)

  def encode_video(self, batch: Batch) -> Float[Array, "b d"]:
    """Means over the tokens of unmasked clips, not normalised."""
    return self.video_features(batch).pooled

  def embed_video(self, batch: Batch) -> Float[Array, "b d"]:
    return l2_normalize(self.encode_video(batch))

  def embed_text(self, batch: Batch) -> Float[Array, "b d"]:
    y = self.text_embed(batch["text_ids"], batch["text_valid"], train=False)
    return l2_normalize(
      self.pool(self.encoder(y, batch["text_valid"]), batch["text_valid"])
    )

  def embed_patches(self, batch: Batch) -> Float[Array, "b n d"]:
    """Unit-norm token of each tubelet of an unmasked clip, encoded without text."""
    tokens = self.encoder(self.embed_visible(batch["video"], None))
    return l2_normalize(tokens.astype(jnp.float32))

  def embed_tokens(self, batch: Batch) -> Float[Array, "b l d"]:
    """Unit-norm token of each text token, encoded without a video."""
    y = self.text_embed(batch["text_ids"], batch["text_valid"], train=False)
    return l2_normalize(self.encoder(y, batch["text_valid"]).astype(jnp.float32))

  def pooled_pair(
    self,
    x: Float[Array, "b k d"],
    ids: Int32[AnyArray, "b l"],
    valid: Bool[AnyArray, "b l"],
    *,
    train: bool,
  ) -> Float[Array, "b d"]:
    """Means over the tokens of a video and a text that are encoded jointly."""
    joint = self.encode_pair(x, self.text_embed(ids, valid, train=train), valid)
    return self.pool(joint, valid_tokens(valid, x.shape[1]))

  def match(self, batch: Batch) -> Float[Array, " b"]:
    """Log-odds that text[i] describes video[i], both unmasked."""
    x, text = self.embed_visible(batch["video"], None), batch["text_ids"]
    pooled = self.pooled_pair(x, text, batch["text_valid"], train=False)
    logits = self.match_head(pooled)
    return logits[:, 1] - logits[:, 0]

  def reconstruct(self, batch: Batch) -> Reconstruction:
    """Reconstructs masked tubelets and predicts tokens."""
    keep_idx, valid = batch["video_keep_idx"], batch["text_valid"]
    x = self.embed_visible(batch["video"], keep_idx)
    ids = jnp.where(batch["text_masked"], self.text.mask_id, batch["text_ids"])
    joint = self.encode_pair(x, self.text_embed(ids, valid, train=False), valid)
    k = keep_idx.shape[1]
    pixels = self.pixel_decoder(joint[:, :k], keep_idx, batch["video_mask_idx"])
    words = self.word_head(joint[:, k:]).argmax(axis=-1)
    kind = self.config.pixel_target
    return Reconstruction(pixel_decoder.to_rgb(pixels, batch, kind, self.clip), words)


def forward(
  model: SimVTP,
  params: Params,
  teacher: Params | None,
  batch: Batch,
  key: jax.Array,
  negatives: Int32[AnyArray, " b"] | None = None,
) -> Outputs:
  """Embeddings and loss terms of one masked batch; tests may set `negatives`."""
  del teacher
  draws, key = jax.random.split(key)  # as in `join_rows`
  rngs = dropout(key, batch)
  out: Encoded = apply(model, params, batch, draws, negatives, rngs=rngs)
  some = joint_rows(model.config, batch) | dict(video_mask_idx=out.mask_idx)
  kind = model.config.pixel_target
  error = pixel_decoder.errors(out.pixels, some, kind, model.clip)
  masked = out.word_masked & some["valid"][:, None]
  is_pair = jnp.repeat(jnp.array([1, 0]), len(out.match) // 2)
  terms = dict(
    pixels=masked_sum(error, some["valid"]),
    mlm=masked_sum(cross_entropy(out.words, out.word_ids), masked),
    vtm=masked_sum(cross_entropy(out.match, is_pair), out.match_valid),
  )
  scale = 1 / model.config.temperature
  pairs = Pairs(l2_normalize(out.video), l2_normalize(out.text), scale, batch["valid"])
  return Outputs(terms, dict(vtc=pairs))


def join_rows(
  config: Config, clip: ClipSpec, pairs: dict[str, Pairs], batch: Batch, key: jax.Array
) -> Batch:
  """The batch, and of each row's false pair the clip, which another row may hold."""
  p, group, keep_idx = pairs["vtc"], config.negatives_group, batch["video_keep_idx"]
  idx = draw_negatives(config, p.a, p.b, batch, jax.random.split(key)[0])
  visible = gather(patchify(batch["video"], clip.tubelet_size), keep_idx)
  return {
    **batch,
    "false_visible": take_rows(visible, idx, group),
    "false_keep_idx": take_rows(jnp.asarray(keep_idx), idx, group),
    "false_valid": jnp.asarray(batch["valid"])[idx],
  }


def build(config: Config, clip: ClipSpec, text: TextSpec, mask: MaskSpec) -> Objective:
  """Builds the objective.

  Raises:
    ConfigError: masked tokens are dropped, so that they cannot be predicted.
  """
  require(
    mask.text == "replace",
    f"config.mask.text: {mask.text!r} drops masked tokens, but SimVTP predicts them; "
    "set 'replace'",
  )
  model = SimVTP(clip, text, config, mask.max_masked_tokens(text.max_length))

  # joint_one_in divides negatives_group.
  group = (config.joint_one_in, "config.objective.joint_one_in")
  if config.negatives_group:
    group = (config.negatives_group, "config.objective.negatives_group")

  def init(key: jax.Array, batch: Batch) -> Any:
    params, draws = jax.random.split(key)
    rngs = {"params": params, **dropout(draws, batch)}
    return model.init(rngs, batch, draws)["params"]

  return Objective(
    model=model,
    mask=mask,
    compute=config.compute,
    init=init,
    forward=functools.partial(forward, model),
    terms=("pixels", "mlm", "vtm"),
    pairs=("vtc",),
    predict=methods(model, *dual_encoder.PREDICTIONS, "match", "reconstruct"),
    join_rows=functools.partial(join_rows, config, clip),
    row_group=config.joint_one_in,
    batch_group=group,
    match_weight=config.temperature,
  )


def draw_negatives(
  config: Config,
  video: Float[Array, "b e"] | None,
  text: Float[Array, "b e"] | None,
  batch: Batch,
  key: jax.Array,
) -> Int32[Array, " b"]:
  """For each text the index of another video of its group of rows.

  The probability is softmax(cosine / temperature) for hard negatives, else uniform, and
  the embeddings are not read.
  """
  logits = None
  if config.negatives == "hard":
    assert video is not None
    assert text is not None
    cosines = l2_normalize(text) @ l2_normalize(video).T
    logits = jax.lax.stop_gradient(cosines) / config.temperature
  return other_rows(batch, key, config.negatives_group, logits)


def joint_rows(config: Config, batch: Batch) -> dict[str, AnyArray]:
  """The rows that are encoded jointly, for reconstruction and matching."""
  return {name: every(value, config.joint_one_in) for name, value in batch.items()}
