"""Reads what hub snapshots state about their weights: config.json and its neighbours.

transformers and timm have config.json, open_clip has open_clip_config.json, sentence
encoders have modules.json; colours are in preprocessor_config.json. Values that a
config.json omits are transformers' defaults.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from vtr_jax.core import io
from vtr_jax.core.errors import WeightsError, one_line
from vtr_jax.weights.facts import Facts

_GELUS = dict(
  gelu="exact",
  gelu_python="exact",
  quick_gelu="quick",
  gelu_new="tanh",
  gelu_fast="tanh",
  gelu_pytorch_tanh="tanh",
  relu="relu",
)
# Names of a tower's settings in config.json.
NAMES = dict(
  width="hidden_size",
  depth="num_hidden_layers",
  mlp_dim="intermediate_size",
  num_heads="num_attention_heads",
  gelu="hidden_act",
  epsilon="layer_norm_eps",
)
DISTILBERT = dict(
  width="dim",
  depth="n_layers",
  mlp_dim="hidden_dim",
  num_heads="n_heads",
  gelu="activation",
)
DECODER = dict(  # VideoMAE's; the rest is the encoder's
  width="decoder_hidden_size",
  depth="decoder_num_hidden_layers",
  mlp_dim="decoder_intermediate_size",
  num_heads="decoder_num_attention_heads",
)
# transformers' defaults (5.24).
_BASE: dict[str, Any] = dict(
  hidden_size=768,
  num_hidden_layers=12,
  intermediate_size=3072,
  num_attention_heads=12,
  hidden_act="gelu",
  layer_norm_eps=1e-12,
  image_size=224,
  patch_size=16,
)
_BERT = _BASE | dict(vocab_size=30522)
_DISTILBERT_BASE = dict(
  vocab_size=30522, dim=768, n_layers=6, hidden_dim=3072, n_heads=12, activation="gelu"
)
_VIDEOMAE = _BASE | dict(
  num_frames=16,
  tubelet_size=2,
  decoder_hidden_size=384,
  decoder_num_hidden_layers=4,
  decoder_intermediate_size=1536,
  decoder_num_attention_heads=6,
)
_CLIP = _BASE | dict(hidden_act="quick_gelu", layer_norm_eps=1e-5)
_SIGLIP = _BASE | dict(hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6)
# Kind -> defaults of (vision_config, text_config).
_DUAL = dict(
  clip=(
    _CLIP | dict(patch_size=32),
    _CLIP
    | dict(hidden_size=512, intermediate_size=2048, num_attention_heads=8)
    | dict(vocab_size=49408),
  ),
  siglip=(_SIGLIP, _SIGLIP | dict(vocab_size=32000)),
)
_SIGLIP2_WORDS = 256_000  # Gemma's vocabulary
# Kinds that differ in settings which the config states.
_ALIKE = dict(
  clip=("open_clip",), open_clip=("clip",), siglip=("siglip2",), siglip2=("siglip",)
)
# Settings of open_clip's towers that change the architecture.
_OPEN_CLIP = dict(
  vision_cfg=("timm_model_name", "attentional_pool", "no_ln_pre", "ls_init_value"),
  text_cfg=("hf_model_name", "no_causal_mask", "embed_cls", "ls_init_value"),
)


def read(folder: pathlib.Path) -> Facts | None:
  """What a folder states; None if it has no config of a published model.

  Raises:
    WeightsError: a file is damaged, or names a model that is not supported.
  """
  try:
    return _read(folder)
  except (TypeError, ValueError, AttributeError, KeyError) as e:
    raise WeightsError(
      f"{folder}: its config has values of other types than expected ({one_line(e)}); "
      "copy it again"
    ) from e


def _read(folder: pathlib.Path) -> Facts | None:
  path, open_clip = folder / "config.json", folder / "open_clip_config.json"
  found = _json(path)
  if "model_type" in found:
    facts = _transformers(path, found)
  elif isinstance(timm := found.get("pretrained_cfg"), dict):
    name = str(found.get("architecture"))
    if not name.startswith(("vit_", "deit_")):
      raise WeightsError(f"{path}: {name!r} is not supported; timm's ViTs are")
    facts = Facts(path, "vit", {}, _colours(timm, "mean", "std"))
  elif isinstance(model := _json(open_clip).get("model_cfg"), dict):
    facts = _open_clip(open_clip, model)
    colours = _colours(_json(open_clip).get("preprocess_cfg") or {}, "mean", "std")
    facts = dataclasses.replace(facts, clip={**facts.clip, **colours})
  else:
    return None
  for place in (folder, folder.parent):  # the transformer may be in a folder of its own
    listed = modules(place / "modules.json")
    if any(place / str(module.get("path", "")) == folder for module in listed):
      facts = _sentence_encoder(facts, place / "modules.json")
  preprocessor = _json(folder / "preprocessor_config.json")
  colours = _colours(preprocessor, "image_mean", "image_std")
  return dataclasses.replace(facts, clip={**facts.clip, **colours})


def modules(path: pathlib.Path) -> list[dict[str, Any]]:
  """The modules that a sentence encoder's modules.json lists; [] without the file.

  Raises:
    WeightsError: it is damaged.
  """
  if not path.is_file():
    return []
  try:
    return [dict(module) for module in io.loads(path.read_bytes())]
  except (ValueError, TypeError, OSError) as e:
    raise WeightsError(f"{path}: damaged ({one_line(e)}); copy it again") from e


def _json(path: pathlib.Path) -> dict[str, Any]:
  """The mapping in a JSON file; {} if the file is missing."""
  if not path.is_file():
    return {}
  try:
    return io.mapping(path.read_bytes())
  except (ValueError, OSError) as e:
    raise WeightsError(f"{path}: damaged ({one_line(e)}); copy it again") from e


def _transformers(path: pathlib.Path, found: dict[str, Any]) -> Facts:
  """config.json of transformers."""
  kind = found["model_type"]
  if kind in ("bert", "distilbert"):
    names, base = (NAMES, _BERT) if kind == "bert" else (DISTILBERT, _DISTILBERT_BASE)
    values = base | found
    how = values.get("position_embedding_type", "absolute")
    if how != "absolute":
      raise WeightsError(f"{path}: position_embedding_type {how!r} is not supported")
    towers = dict(text=_tower(path, values, names))
    also = ("sentence_transformers", *(["bert_words"] if kind == "bert" else []))
    words = _int(path, values, "vocab_size")
    return Facts(path, kind, towers, {}, words, also, post_norm=True)
  if kind == "vit":
    values = _BASE | found
    return Facts(path, kind, dict(video=_tower(path, values)), _clip(path, values))
  if kind == "videomae":
    values = _VIDEOMAE | found
    encoder = _tower(path, values)
    towers = dict(video=encoder, decoder=encoder | _tower(path, values, DECODER))
    if not any(
      "PreTrain" in str(x) for x in found.get("architectures") or ["PreTrain"]
    ):
      del towers["decoder"]
    clip = _clip(path, values, _int(path, values, "tubelet_size"))
    clip |= dict(num_frames=_int(path, values, "num_frames"))
    return Facts(path, kind, towers, clip)
  if kind in _DUAL:
    return _dual(path, found, kind)
  supported = ", ".join(["bert", "distilbert", "vit", "videomae", *_DUAL])
  raise WeightsError(
    f"{path}: model_type {kind!r} is not supported; {supported} are (siglip2 of "
    "variable resolution is not); if it describes other weights, move these to a "
    "folder of their own"
  )


def _dual(path: pathlib.Path, found: dict[str, Any], kind: str) -> Facts:
  """CLIP or SigLIP, with a section for each tower."""
  video, text = (
    # Of old files, the second one counts.
    base
    | (found.get(f"{side}_config") or {})
    | (found.get(f"{side}_config_dict") or {})
    for side, base in zip(("vision", "text"), _DUAL[kind], strict=True)
  )
  towers = dict(video=_tower(path, video), text=_tower(path, text))
  vocab_size = _int(path, text, "vocab_size")
  if kind == "clip" and towers["video"]["gelu"] == "exact":
    kind = "open_clip"
  if kind == "siglip" and vocab_size == _SIGLIP2_WORDS:
    kind = "siglip2"
  also = _ALIKE[kind]
  return Facts(path, kind, towers, _clip(path, video), vocab_size, also)


def _open_clip(path: pathlib.Path, model: dict[str, Any]) -> Facts:
  """`model_cfg` of open_clip_config.json; what it omits are open_clip's defaults."""
  for section, keys in _OPEN_CLIP.items():
    for key in keys:
      if (model.get(section) or {}).get(key):
        raise WeightsError(
          f"{path}: {section}.{key} is not supported; open_clip's own ViTs are"
        )
  video = dict(layers=12, width=768, head_width=64, mlp_ratio=4.0)
  video |= dict(image_size=224, patch_size=16) | (model.get("vision_cfg") or {})
  text = dict(layers=12, width=512, heads=8, mlp_ratio=4.0, vocab_size=49408)
  text |= model.get("text_cfg") or {}
  video["heads"] = _int(path, video, "width") // _int(path, video, "head_width")

  def tower(values: dict[str, Any]) -> dict[str, Any]:
    width = _int(path, values, "width")
    return dict(
      width=width,
      depth=_int(path, values, "layers"),
      mlp_dim=int(width * values["mlp_ratio"]),
      num_heads=_int(path, values, "heads"),
      gelu="quick" if model.get("quick_gelu") else "exact",
      epsilon=1e-5,
    )

  kind = "clip" if model.get("quick_gelu") else "open_clip"
  towers = dict(video=tower(video), text=tower(text))
  words = _int(path, text, "vocab_size")
  return Facts(path, kind, towers, _clip(path, video), words, _ALIKE[kind])


def _sentence_encoder(facts: Facts, path: pathlib.Path) -> Facts:
  """A text tower with what modules.json puts behind it: its pooling."""
  pools = set()
  for module in modules(path):
    name = str(module.get("type")).rpartition(".")[2]
    if name == "Pooling":
      pooling = path.parent / str(module.get("path")) / "config.json"
      if not pooling.is_file():
        raise WeightsError(f"{pooling}: missing; copy the whole folder")
      stated = _json(pooling)
      pools |= {k.removeprefix("pooling_mode_") for k, v in stated.items() if v is True}
      pools |= {stated["pooling_mode"]} if "pooling_mode" in stated else set()
    elif name not in ("Transformer", "Normalize"):
      raise WeightsError(f"{path}: the module {name!r} is not supported")
  pools -= {"include_prompt"}
  pool = {"cls_token": "cls", "cls": "cls", "mean_tokens": "mean", "mean": "mean"}
  if len(pools) != 1 or not pools <= pool.keys():
    raise WeightsError(
      f"{path}: pooling by {', '.join(sorted(map(str, pools))) or 'nothing'} is not "
      "supported; by cls_token or mean_tokens is"
    )
  if set(facts.towers) != {"text"}:
    raise WeightsError(
      f"{path}: of a {facts.kind!r} model; BERT and DistilBERT are read"
    )
  settings = _json(path.parent / "sentence_bert_config.json")
  return dataclasses.replace(
    facts,
    kind="sentence_transformers",
    also=tuple({facts.kind, *facts.also} - {"sentence_transformers"}),
    pool=pool[pools.pop()],
    max_length=_int(path, settings, "max_seq_length") if settings else 0,
  )


def _tower(
  path: pathlib.Path, values: Mapping[str, Any], names: Mapping[str, str] = NAMES
) -> dict[str, Any]:
  """A tower's settings by our names."""
  tower: dict[str, Any] = {}
  for key, name in names.items():
    value = values[name]
    if key == "gelu":
      if value not in _GELUS:
        known = ", ".join(_GELUS)
        raise WeightsError(f"{path}: {name} {value!r} is not supported; {known} are")
      tower[key] = _GELUS[value]
    elif key == "epsilon":
      if not isinstance(value, int | float) or not 0 < value < 1:
        raise WeightsError(f"{path}: {name} is {value!r}, not in (0, 1)")
      tower[key] = float(value)
    else:
      tower[key] = _int(path, values, name)
  if tower["width"] % tower["num_heads"]:
    raise WeightsError(
      f"{path}: {names['num_heads']} {tower['num_heads']} does not divide "
      f"{names['width']} {tower['width']}"
    )
  return tower


def _clip(
  path: pathlib.Path, values: Mapping[str, Any], frames: int = 1
) -> dict[str, Any]:
  side = _int(path, values, "patch_size")
  return dict(
    image_size=_int(path, values, "image_size"), tubelet_size=(frames, side, side)
  )


def _colours(values: Mapping[str, Any], mean: str, std: str) -> dict[str, Any]:
  """Mean and deviation of RGB, if both are stated."""
  if values.get("do_normalize") is False:
    return dict(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
  found = {}
  for key, name in (("mean", mean), ("std", std)):
    stated = values.get(name)
    if not isinstance(stated, list) or len(stated) != 3:
      return {}
    found[key] = tuple(map(float, stated))
  return found


def _int(path: pathlib.Path, values: Mapping[str, Any], name: str) -> int:
  """A positive number; of a square, its side."""
  value = values.get(name)
  if isinstance(value, list) and len(set(map(repr, value))) == 1:
    value = value[0]
  if not isinstance(value, int) or isinstance(value, bool) or value < 1:
    raise WeightsError(f"{path}: {name} is {value!r}, not a positive number")
  return value
