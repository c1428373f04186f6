"""Tiny models of public codes with random weights: their state and their outputs.

Recomputed where PyTorch and transformers are installed, and read from
tests/golden/hf.npz elsewhere; `python tests/support/hf_cases.py` writes that file.
"""

import importlib.util
import pathlib

import numpy as np

FILE = pathlib.Path(__file__).parents[1] / "golden" / "hf.npz"
SIZE, PATCH, WIDTH, LAYERS, HEADS, HIDDEN = 16, 8, 16, 2, 2, 24
WORDS, LENGTH, FRAMES = 40, 9, 4
LIVE = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))

_TOWER = dict(
  hidden_size=WIDTH,
  num_hidden_layers=LAYERS,
  num_attention_heads=HEADS,
  intermediate_size=HIDDEN,
)
_IMAGE = _TOWER | dict(image_size=SIZE, patch_size=PATCH)
_TEXT = _TOWER | dict(vocab_size=WORDS, max_position_embeddings=LENGTH)


def inputs() -> dict[str, np.ndarray]:
  """(RGB in [0, 1] [b t c h w], ids that end with the highest id, valid tokens)."""
  rng = np.random.default_rng(0)
  ids = rng.integers(5, WORDS - 1, (3, LENGTH))
  valid = np.arange(LENGTH) < np.array([[LENGTH], [4], [6]])
  ids[np.arange(3), valid.sum(axis=1) - 1] = WORDS - 1
  video = rng.random((3, FRAMES, 3, SIZE, SIZE), np.float32)
  return dict(video=video, ids=np.where(valid, ids, 0), valid=valid)


def case(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """(state dict, outputs) of `inputs()`."""
  if LIVE:
    return _make(name)
  with np.load(FILE, allow_pickle=False) as arrays:
    picked = {k: arrays[k] for k in arrays.files if k.startswith(f"{name}/")}
  split = lambda kind: {
    k.removeprefix(f"{name}/{kind}/"): v
    for k, v in picked.items()
    if k.startswith(f"{name}/{kind}/")
  }
  return split("state"), split("out")


def check_loads(name: str, state: dict[str, np.ndarray], unused: set[str]) -> None:
  """Asserts that the public model loads a state dict; only `unused` may be missing."""
  import torch

  model, _ = CASES[name]()
  tensors = {k: torch.from_numpy(v.copy()) for k, v in state.items()}
  missing, unexpected = model.load_state_dict(tensors, strict=False)
  assert set(missing) == unused
  assert not unexpected


def _make(name: str):
  import torch

  torch.manual_seed(0)
  data = {k: torch.from_numpy(v) for k, v in inputs().items()}
  pixels = (data["video"] - 0.5) / 0.5
  model, run = CASES[name]()
  with torch.no_grad():
    for key, p in model.named_parameters():
      # No value at a special place, and norms near 1, as trained ones.
      centre = "norm" in key.lower() or "ln_" in key
      p.copy_(torch.randn(p.shape) * 0.2 + (centre and key.endswith("weight")))
    out = run(model.eval(), pixels, data["ids"], data["valid"].long())
  state = {k: v.numpy().copy() for k, v in model.state_dict().items()}
  return state, {k: v.numpy().copy() for k, v in out.items()}


def _vit():
  import transformers

  config = transformers.ViTConfig(**_IMAGE)
  model = transformers.ViTModel(config)
  run = lambda m, pixels, *_: dict(tokens=m(pixels[:, 0]).last_hidden_state)
  return model, run


def _distilbert():
  import transformers

  config = transformers.DistilBertConfig(
    vocab_size=WORDS,
    max_position_embeddings=LENGTH,
    n_layers=LAYERS,
    n_heads=HEADS,
    dim=WIDTH,
    hidden_dim=HIDDEN,
  )
  return transformers.DistilBertModel(config), _read


def _bert():
  import transformers

  return transformers.BertModel(transformers.BertConfig(**_TEXT)), _read


def _read(model, pixels, ids, valid):
  return dict(tokens=model(input_ids=ids, attention_mask=valid).last_hidden_state)


def _videomae():
  import torch
  import transformers

  config = transformers.VideoMAEConfig(
    **_IMAGE,
    num_frames=FRAMES,
    tubelet_size=2,
    decoder_num_attention_heads=HEADS,
    decoder_hidden_size=8,
    decoder_num_hidden_layers=1,
    decoder_intermediate_size=12,
    use_mean_pooling=False,
  )

  def run(model, pixels, *_):
    hidden = torch.zeros(3, 8, dtype=torch.bool)
    hidden[:, [1, 2, 4, 5, 7]] = True
    whole = model.videomae(pixels).last_hidden_state
    return dict(tokens=whole, pixels=model(pixels, hidden).logits)

  return transformers.VideoMAEForPreTraining(config), run


def _pair(model, pixels, ids, valid):
  """Embeddings of each frame and of the texts, not normalised."""
  frames = pixels.flatten(0, 1)
  image = model.get_image_features(pixel_values=frames).pooler_output
  text = model.get_text_features(input_ids=ids, attention_mask=valid).pooler_output
  return dict(image=image.reshape(3, FRAMES, -1), text=text)


def _clip():
  import transformers

  config = transformers.CLIPConfig(
    text_config=_TEXT | dict(eos_token_id=WORDS - 1, hidden_act="quick_gelu"),
    vision_config=_IMAGE | dict(hidden_act="quick_gelu"),
    projection_dim=12,
  )
  return transformers.CLIPModel(config), _pair


def _siglip():
  import torch
  import transformers

  config = transformers.SiglipConfig(
    text_config=_TEXT | dict(projection_size=WIDTH), vision_config=_IMAGE
  )
  # SigLIP reads its padding.
  run = lambda m, pixels, ids, _: _pair(m, pixels, ids, torch.ones_like(ids))
  return transformers.SiglipModel(config), run


def _openai(quick=True):
  """OpenAI's model.py, or open_clip's, rewritten with PyTorch's own modules."""
  import torch
  from torch import nn

  class Quick(nn.Module):
    def forward(self, x):
      return x * torch.sigmoid(1.702 * x)

  class Block(nn.Module):
    def __init__(self):
      super().__init__()
      self.attn = nn.MultiheadAttention(WIDTH, HEADS)
      self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
      up, down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
      self.mlp = nn.Sequential()
      gelu = Quick() if quick else nn.GELU()
      for key, part in (("c_fc", up), ("gelu", gelu), ("c_proj", down)):
        self.mlp.add_module(key, part)

    def forward(self, x, mask):
      y = self.ln_1(x)
      x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
      return x + self.mlp(self.ln_2(x))

  class Transformer(nn.Module):
    def __init__(self):
      super().__init__()
      self.resblocks = nn.ModuleList(Block() for _ in range(LAYERS))

    def forward(self, x, mask=None):
      x = x.permute(1, 0, 2)
      for block in self.resblocks:
        x = block(x, mask)
      return x.permute(1, 0, 2)

  class Visual(nn.Module):
    def __init__(self):
      super().__init__()
      self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
      self.class_embedding = nn.Parameter(torch.zeros(WIDTH))
      self.positional_embedding = nn.Parameter(torch.zeros(5, WIDTH))
      self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
      self.transformer = Transformer()
      self.proj = nn.Parameter(torch.zeros(WIDTH, 12))

    def forward(self, x):
      x = self.conv1(x).flatten(2).permute(0, 2, 1)
      cls = self.class_embedding + torch.zeros(len(x), 1, WIDTH)
      x = torch.cat([cls, x], dim=1) + self.positional_embedding
      x = self.transformer(self.ln_pre(x))
      return self.ln_post(x[:, 0]) @ self.proj

  class CLIP(nn.Module):
    def __init__(self):
      super().__init__()
      self.visual, self.transformer = Visual(), Transformer()
      self.token_embedding = nn.Embedding(WORDS, WIDTH)
      self.positional_embedding = nn.Parameter(torch.zeros(LENGTH, WIDTH))
      self.ln_final = nn.LayerNorm(WIDTH)
      self.text_projection = nn.Parameter(torch.zeros(WIDTH, 12))
      self.logit_scale = nn.Parameter(torch.zeros([]))

    def encode_text(self, ids):
      mask = torch.full((LENGTH, LENGTH), float("-inf")).triu_(1)
      x = self.token_embedding(ids) + self.positional_embedding
      x = self.ln_final(self.transformer(x, mask))
      return x[torch.arange(len(x)), ids.argmax(dim=-1)] @ self.text_projection

  def run(model, pixels, ids, valid):
    image = model.visual(pixels.flatten(0, 1)).reshape(3, FRAMES, -1)
    return dict(image=image, text=model.encode_text(ids))

  return CLIP(), run


CASES = dict(
  vit=_vit,
  distilbert=_distilbert,
  bert=_bert,
  videomae=_videomae,
  clip=_clip,
  siglip=_siglip,
  openai=_openai,
  open_clip=lambda: _openai(quick=False),
)

if __name__ == "__main__":
  arrays = {}
  for name in CASES:
    state, out = _make(name)
    arrays |= {f"{name}/state/{k}": v for k, v in state.items()}
    arrays |= {f"{name}/out/{k}": v for k, v in out.items()}
  np.savez_compressed(FILE, **arrays)
