"""The peers of benchmarks/peers.py, in PyTorch and Hugging Face transformers.

Weights are random; nothing is downloaded. Each peer gets every optimisation that does
not change its work: fused attention, fused AdamW, pixels in its own layout.
"""

import numpy as np
import torch  # pyright: ignore[reportMissingImports] - optional
import torch.nn.functional as F  # pyright: ignore[reportMissingImports] - optional
import transformers  # pyright: ignore[reportMissingImports] - optional
from torch import nn  # pyright: ignore[reportMissingImports] - optional

from vtr_jax.train.config import TrainConfig

# The faster of the two on CPU, by dtype, forward and backward (torch 2.13).
ATTENTION = dict(float32="sdpa", bfloat16="eager")


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, how: str) -> torch.Tensor:
  """Attention over [b h n d]."""
  if how == "sdpa":
    return F.scaled_dot_product_attention(q, k, v)
  return (q * q.shape[-1] ** -0.5 @ k.transpose(2, 3)).softmax(-1) @ v


class Block(nn.Module):
  """Pre-norm block of a ViT, with one projection for query, key and value."""

  def __init__(self, width: int, mlp_dim: int, num_heads: int, attention: str, **_):
    super().__init__()
    self.num_heads, self.attention = num_heads, attention
    self.norm_attention = nn.LayerNorm(width, eps=1e-6)
    self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
    self.norm_mlp = nn.LayerNorm(width, eps=1e-6)
    self.up, self.down = nn.Linear(width, mlp_dim), nn.Linear(mlp_dim, width)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    b, n, d = x.shape
    qkv = self.qkv(self.norm_attention(x)).view(b, n, 3, self.num_heads, -1)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    y = attend(query, key, value, self.attention)
    x = x + self.out(y.transpose(1, 2).reshape(b, n, d))
    return x + self.down(F.gelu(self.up(self.norm_mlp(x))))


class DualEncoder(nn.Module):
  """MAC's two towers: a ViT over the visible patches, and DistilBERT."""

  def __init__(self, config: TrainConfig, attention: str):
    super().__init__()
    video, text = config.objective["video"], config.objective["text"]
    self.clip, width = config.clip, video["width"]
    self.scale = 1 / config.objective["temperature"]
    self.proj = nn.Linear(self.clip.tubelet_dim, width)
    self.cls = nn.Parameter(torch.randn(width) / 50)
    self.positions = nn.Parameter(torch.randn(self.clip.num_tubelets, width) / 50)
    self.blocks = nn.Sequential(
      *(Block(**video, attention=attention) for _ in range(video["depth"]))
    )
    self.norm = nn.LayerNorm(width, eps=1e-6)
    self.bert = transformers.DistilBertModel(
      transformers.DistilBertConfig(
        vocab_size=config.text.vocab_size,
        max_position_embeddings=config.text.max_length,
        dim=text["width"],
        n_layers=text["depth"],
        n_heads=text["num_heads"],
        hidden_dim=text["mlp_dim"],
        dropout=config.objective["text_dropout"],
        attention_dropout=0.0,  # ours has none
        attn_implementation=attention,
      )
    )
    self.video_proj = nn.Linear(width, config.objective["projection"])
    self.text_proj = nn.Linear(text["width"], config.objective["projection"])

  def encode_video(self, video: torch.Tensor, keep_idx: torch.Tensor) -> torch.Tensor:
    (pt, ph, pw), (gt, gh, gw) = self.clip.tubelet_size, self.clip.grid
    x = video.view(-1, gt, pt, gh, ph, gw, pw, 3).permute(0, 1, 3, 5, 2, 4, 6, 7)
    x = x.reshape(len(video), self.clip.num_tubelets, -1)
    # Only visible patches are converted to float.
    x = torch.gather(x, 1, keep_idx[:, :, None].expand(-1, -1, x.shape[2])) / 255
    mean = torch.tensor(self.clip.mean, device=x.device).repeat(x.shape[2] // 3)
    std = torch.tensor(self.clip.std, device=x.device).repeat(x.shape[2] // 3)
    x = self.proj((x - mean) / std) + self.positions[keep_idx]
    cls = self.cls.expand(len(x), 1, -1).to(x.dtype)
    x = self.norm(self.blocks(torch.cat([cls, x], dim=1)))
    return F.normalize(self.video_proj(x[:, 0]).float(), dim=-1)

  def forward(self, video, keep_idx, ids, valid) -> torch.Tensor:
    """The loss."""
    x = self.encode_video(video, keep_idx)
    y = self.bert(input_ids=ids, attention_mask=valid).last_hidden_state[:, 0]
    y = F.normalize(self.text_proj(F.relu(y)).float(), dim=-1)
    logits, labels = self.scale * (y @ x.T), torch.arange(len(x), device=x.device)
    return F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)

  @staticmethod
  def inputs(batch: dict[str, np.ndarray], config: TrainConfig) -> tuple:
    ids = np.where(batch["text_masked"], config.text.mask_id, batch["text_ids"])
    arrays = batch["video"], batch["video_keep_idx"], ids, batch["text_valid"]
    video, *rest = map(torch.from_numpy, arrays)
    return video, *(x.long() for x in rest)


class VideoMAE(nn.Module):
  """transformers' VideoMAE pre-training, with the sizes of SimVTP's config."""

  def __init__(self, config: TrainConfig, attention: str):
    super().__init__()
    encoder, decoder = config.objective["encoder"], config.objective["decoder"]
    self.model = transformers.VideoMAEForPreTraining(
      transformers.VideoMAEConfig(
        image_size=config.clip.image_size,
        patch_size=config.clip.tubelet_size[1],
        num_frames=config.clip.num_frames,
        tubelet_size=config.clip.tubelet_size[0],
        hidden_size=encoder["width"],
        num_hidden_layers=encoder["depth"],
        num_attention_heads=encoder["num_heads"],
        intermediate_size=encoder["mlp_dim"],
        decoder_hidden_size=decoder["width"],
        decoder_num_hidden_layers=decoder["depth"],
        decoder_num_attention_heads=decoder["num_heads"],
        decoder_intermediate_size=decoder["mlp_dim"],
        attn_implementation=attention,
      )
    )

  def forward(self, pixels: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
    """The loss."""
    return self.model(pixel_values=pixels, bool_masked_pos=masked).loss

  @staticmethod
  def inputs(batch: dict[str, np.ndarray], config: TrainConfig) -> tuple:
    pixels = batch["video"].astype("f") / 255 - np.array(config.clip.mean, "f")
    pixels = (pixels / np.array(config.clip.std, "f")).transpose(0, 1, 4, 2, 3)
    masked = np.zeros((len(pixels), config.clip.num_tubelets), bool)
    np.put_along_axis(masked, batch["video_mask_idx"], True, axis=1)
    return torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(masked)


class Trainer:
  """A peer's training step; `dtype` bfloat16 is autocast over float32 parameters."""

  def __init__(
    self, kind: type[nn.Module], config: TrainConfig, dtype: str, device: str = "cpu"
  ):
    torch.manual_seed(0)
    o = config.optim
    attention = ATTENTION[dtype] if device == "cpu" else "sdpa"
    self.model = kind(config, attention).train().to(device)
    self._device = device
    self._config, self._kind, self._bf16 = config, kind, dtype == "bfloat16"
    self._optimizer = torch.optim.AdamW(
      self.model.parameters(),
      lr=o.lr,
      betas=(o.b1, o.b2),
      eps=o.eps,
      weight_decay=o.weight_decay,
      fused=True,
    )

  def inputs(self, batch: dict[str, np.ndarray]) -> tuple:
    """Inputs of `step`, from a batch of ours."""
    made = self._kind.inputs(batch, self._config)
    return tuple(x.to(self._device) for x in made)

  def step(self, *inputs: torch.Tensor) -> float:
    """Runs one step; returns its loss."""
    with torch.autocast(self._device, torch.bfloat16, enabled=self._bf16):
      loss = self.model(*inputs)
    loss.backward()
    self._optimizer.step()
    self._optimizer.zero_grad()
    return loss.item()
