"""Describes exported weights as hubs do: config.json and its neighbours.

The inverse of hub_configs.py, for the layouts that a class of transformers has. The
same keys are read there.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from vtr_jax.core import io
from vtr_jax.core.batch import ClipSpec
from vtr_jax.core.errors import WeightsError
from vtr_jax.data.tokenizers import base as tokenizers
from vtr_jax.data.tokenizers import kinds
from vtr_jax.models.config import ARCHS
from vtr_jax.models.layers import VIT, BlockConfig, TransformerConfig
from vtr_jax.models.text_tower import POST_NORM
from vtr_jax.weights import layouts
from vtr_jax.weights.hub_configs import DECODER, DISTILBERT, NAMES
from vtr_jax.weights.save import OWN

# Layout -> class of transformers, and its model_type.
CLASSES = dict(
  hf_clip=("CLIPModel", "clip"),
  hf_siglip=("SiglipModel", "siglip"),
  hf_vit=("ViTModel", "vit"),
  hf_videomae=("VideoMAEForPreTraining", "videomae"),
  hf_videomae_finetuned=("VideoMAEForVideoClassification", "videomae"),
  bert=("BertModel", "bert"),
  distilbert=("DistilBertModel", "distilbert"),
)
_GELUS = dict(exact="gelu", quick="quick_gelu", tanh="gelu_pytorch_tanh", relu="relu")
_TEXT_ALONE = ("bert", "distilbert")
_TEXT = ("hf_clip", "hf_siglip", *_TEXT_ALONE)
_VIDEOS = ("hf_videomae", "hf_videomae_finetuned")

Files = dict[str, Any]  # name -> content, as JSON has it


def check(layout: str) -> None:
  """Raises WeightsError if no folder can be written in a layout."""
  if layout not in (OWN, *CLASSES):
    raise WeightsError(
      f"--as: {layout!r} is not of a library that reads folders; give --to a "
      f".safetensors or .npz file, or --as one of {OWN}, {', '.join(CLASSES)}"
    )


def write(
  folder: pathlib.Path, layout: str, model: Any, vocabulary: pathlib.Path | None
) -> None:
  """Writes what describes weights, and their vocabulary, into a folder.

  Args:
    folder: of the weights.
    layout: one of `CLASSES`, which has accepted the model.
    model: linen module of the objective.
    vocabulary: file of the run, if it has one.

  Raises:
    DataError: the vocabulary cannot be read.
    WeightsError: the library's class does not read captions as this model does.
  """
  files = _described(layout, model)
  if vocabulary and layout in _TEXT and layouts.reads_text(model):
    tokenizer = tokenizers.load(str(vocabulary), model.text.t5_rules)
    if layout == "hf_clip" and not isinstance(tokenizer, kinds.Clip):
      raise WeightsError(
        f"--as: {layout!r} reads captions at their end token, which is CLIP's; the "
        "run's vocabulary is another; give --to a .safetensors file, or --as=vtr_jax"
      )
    config = _vocabulary(vocabulary, tokenizer, folder)
    length = dict(model_max_length=model.text.max_length)
    files["tokenizer_config.json"] = length | config
    if isinstance(tokenizer, kinds.Clip):
      files["config.json"]["text_config"] |= _clip_ids(tokenizer.unk_id)
  for name, content in files.items():
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    io.write_json(path, content)


def _described(layout: str, model: Any) -> Files:
  files: Files = {"config.json": _config(layout, model)}
  if layout in _TEXT_ALONE:
    return files | _sentence_encoder(model)
  processor = "VideoMAEImageProcessor" if layout in _VIDEOS else "CLIPImageProcessor"
  return files | {"preprocessor_config.json": _preprocessor(processor, model.clip)}


def _config(layout: str, model: Any) -> dict[str, Any]:
  name, model_type = CLASSES[layout]
  c = model.config
  values: dict[str, Any] = dict(architectures=[name], model_type=model_type)
  values |= dict(dtype="float32")
  if layout in _TEXT_ALONE:
    return values | _words(model, layout)
  if layout == "hf_vit":
    return values | _video(model)
  if layout == "hf_videomae":
    decoder = _tower(c.decoder, VIT, DECODER)
    target = dict(norm_pix_loss=c.pixel_target == "standardized")
    return values | _video(model) | decoder | target | dict(use_mean_pooling=False)
  if layout == "hf_videomae_finetuned":
    labels = c.classes or [f"LABEL_{i}" for i in range(c.num_classes)]
    names = dict(enumerate(labels))
    values |= dict(
      use_mean_pooling=True, id2label={str(i): n for i, n in names.items()}
    )
    return values | _video(model) | dict(label2id={n: i for i, n in names.items()})
  text, video = _words(model, layout), _video(model)
  if layout == "hf_siglip":
    text |= dict(projection_size=c.projection)
  else:
    values |= dict(projection_dim=c.projection)
    text |= dict(projection_dim=c.projection, **_clip_ids(text["vocab_size"] - 1))
    video |= dict(projection_dim=c.projection)
  return values | dict(text_config=text, vision_config=video)


def _clip_ids(end: int) -> dict[str, int]:
  """Special tokens; the features of the end of a caption are its embedding."""
  return dict(bos_token_id=end - 1, eos_token_id=end, pad_token_id=end)


def _video(model: Any) -> dict[str, Any]:
  """Settings of the video tower, or of SimVTP's encoder."""
  c, clip = model.config, model.clip
  frames, side, _ = clip.tubelet_size
  if hasattr(c, "encoder"):
    values = _tower(c.encoder, VIT)
  else:
    values = _tower(c.video, ARCHS[c.arch].kind)
  values |= dict(image_size=clip.image_size, patch_size=side, num_channels=3)
  if frames > 1:
    values |= dict(num_frames=clip.num_frames, tubelet_size=frames, qkv_bias=True)
  return values


def _words(model: Any, layout: str) -> dict[str, Any]:
  """Settings of the text tower."""
  c, text = model.config, model.text
  post = c.text_norm == "post"
  kind = POST_NORM if post else ARCHS[c.arch].kind
  values = _tower(c.text, kind, DISTILBERT if layout == "distilbert" else NAMES)
  # The row of a mask token that is the last one is ours: see entries.token_embeddings.
  ours = not post and text.mask_id == text.vocab_size - 1
  return values | dict(
    vocab_size=text.vocab_size - ours, max_position_embeddings=text.max_length
  )


def _tower(
  size: TransformerConfig, kind: BlockConfig, names: Mapping[str, str] = NAMES
) -> dict[str, Any]:
  kind = size.adapted(kind)
  values = dict(width=size.width, depth=size.depth, mlp_dim=size.mlp_dim)
  values |= dict(num_heads=size.num_heads)
  values |= dict(gelu=_GELUS[kind.gelu], epsilon=kind.epsilon)
  return {name: values[key] for key, name in names.items()}


def _preprocessor(kind: str, clip: ClipSpec) -> dict[str, Any]:
  """As this package reads frames: the short side resized, the middle cut out."""
  side = clip.image_size
  return dict(
    image_processor_type=kind,
    do_resize=True,
    size=dict(shortest_edge=side),
    resample=2,  # bilinear
    do_center_crop=True,
    crop_size=dict(height=side, width=side),
    do_rescale=True,
    rescale_factor=1 / 255,
    do_normalize=True,
    image_mean=list(clip.mean),
    image_std=list(clip.std),
  )


def _sentence_encoder(model: Any) -> Files:
  """What sentence-transformers reads, of a model whose text is not projected."""
  c = model.config
  if c.arch != "sentence":
    return {}
  kind = "sentence_transformers.models."
  parts = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
  pooling = dict(
    word_embedding_dimension=c.text.width,
    pooling_mode_cls_token=c.pool == "cls",
    pooling_mode_mean_tokens=c.pool == "mean",
  )
  return {
    "modules.json": [
      dict(idx=i, name=str(i), path=path, type=kind + name)
      for i, (name, path) in enumerate(parts)
    ],
    "1_Pooling/config.json": pooling,
    "sentence_bert_config.json": dict(max_seq_length=model.text.max_length),
  }


def _vocabulary(
  source: pathlib.Path, tokenizer: tokenizers.Tokenizer, folder: pathlib.Path
) -> dict[str, Any]:
  """Writes a vocabulary under the names that transformers looks for; its config."""
  content = kinds.read(str(source))
  pieces = tokenizer.pieces(range(tokenizer.vocab_size))
  if isinstance(tokenizer, kinds.Bert):
    (folder / "vocab.txt").write_bytes(content)
    upper, lower = (tokenizer.encode(text, 8)[0].tolist() for text in "Aa")
    return dict(tokenizer_class="BertTokenizer", do_lower_case=upper == lower)
  if isinstance(tokenizer, kinds.Clip):
    # OpenAI's file has more lines than are merges: each makes one piece, besides two of
    # each byte and three special tokens, the last of which is ours.
    lines = kinds.lines(str(source), content)[: 1 + len(pieces) - 2 * 256 - 3]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    ids = {piece: i for i, piece in enumerate(pieces[:-1])}
    io.write_json(folder / "vocab.json", ids, indent=None)
    return dict(tokenizer_class="CLIPTokenizer")
  name = "tokenizer.model" if isinstance(tokenizer, kinds.Siglip2) else "spiece.model"
  (folder / name).write_bytes(content)
  siglip = isinstance(tokenizer, kinds.Siglip)
  return dict(tokenizer_class="SiglipTokenizer") if siglip else {}
