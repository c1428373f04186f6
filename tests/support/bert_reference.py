"""BERT's encoder in float64 NumPy, by the paper and Google's code."""

import math

import numpy as np

GELUS = dict(
  gelu=lambda x: x * (1 + np.vectorize(math.erf, otypes=[float])(x / 2**0.5)) / 2,
  gelu_new=lambda x: x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2,
)


def tokens(state, ids, valid, heads, gelu="gelu", epsilon=1e-12):
  """Last hidden states [b l d] of a BertModel's state dict, of token type 0."""
  w = {key: np.asarray(x, np.float64) for key, x in state.items()}

  def linear(x, name):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

  def norm(x, name):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]

  embed = "embeddings.{}_embeddings.weight".format
  x = w[embed("word")][ids] + w[embed("position")][: ids.shape[1]]
  x = norm(x + w[embed("token_type")][0], "embeddings.LayerNorm")
  for i in range(sum(key.endswith("intermediate.dense.weight") for key in w)):
    layer = f"encoder.layer.{i}."
    q, k, v = (
      linear(x, f"{layer}attention.self.{part}").reshape(*ids.shape, heads, -1)
      for part in ("query", "key", "value")
    )
    scores = np.einsum("bqhe,bkhe->bhqk", q, k) / q.shape[-1] ** 0.5
    scores = np.where(valid[:, None, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("bhqk,bkhe->bqhe", weights, v).reshape(x.shape)
    mixed = linear(mixed, f"{layer}attention.output.dense")
    x = norm(x + mixed, f"{layer}attention.output.LayerNorm")
    y = GELUS[gelu](linear(x, f"{layer}intermediate.dense"))
    x = norm(x + linear(y, f"{layer}output.dense"), f"{layer}output.LayerNorm")
  return x


def pooled(x, valid):
  """Unit-norm means [b d] of valid tokens, as sentence-transformers pools."""
  mean = np.where(valid[:, :, None], x, 0).sum(axis=1)
  return mean / np.linalg.norm(mean, axis=1, keepdims=True)
