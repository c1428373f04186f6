"""What the matching head tells, and R@1 by each rule of re-ranking with it.

  python -m benchmarks.matching --checkpoint=runs/simvtp-demo [--split=validation]

For SimVTP. Accuracy is of true pairs and as many false ones, 50 is chance: false clips
are drawn at random, as in training, or are the most similar ones by the contrast, as in
re-ranking; clips and captions are masked as in training, or whole.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging

from vtr_jax.data import loader, masks
from vtr_jax.data.examples import EvalExample
from vtr_jax.data.tokenizers.base import encode_all
from vtr_jax.eval import metrics, protocols, ranks, rescore
from vtr_jax.eval.evaluators.base import Context, Embedder
from vtr_jax.inference import embed_split
from vtr_jax.inference.load import load
from vtr_jax.models.pair_rows import valid_tokens
from vtr_jax.objectives.base import apply

_CHECKPOINT = flags.DEFINE_string("checkpoint", "", "Directory of a run of SimVTP.")
_SPLIT = flags.DEFINE_string("split", "test", "Split of the run's data.")
_TOP = flags.DEFINE_integer("top", 5, "Clips of a caption that are ranked again.")
_ROWS = 200  # pairs of a batch

# (texts, clips) -> log-odds of the pairs.
Score = Callable[[np.ndarray, np.ndarray], np.ndarray]


def score(context: Context, params: Any, source: Any, texts: list, mask: bool) -> Score:
  """Scores whole pairs, or pairs of which each clip and caption has one mask."""
  model, spec = context.objective.model, context.objective.mask
  rng, tokenizer = np.random.default_rng(0), context.tokenizer
  example = EvalExample(source, context.data, context.clip)
  videos = np.stack([example(i)["video"] for i in range(len(source))])
  ids, valid = encode_all(tokenizer, texts, context.text.max_length)
  keep = None
  if mask:
    draw = lambda: masks.video_mask(spec, context.clip.grid, rng)[0]
    keep = np.stack([draw() for _ in range(len(source))])
    words, special = np.arange(ids.shape[1]), tokenizer.special_ids
    for i, row in enumerate(ids):
      hidden = masks.text_mask(spec, row, valid[i], words, special, rng)
      ids[i] = np.where(hidden, context.text.mask_id, row)

  def log_odds(model: Any, video: Any, keep: Any, ids: Any, valid: Any) -> Any:
    x = model.embed_visible(video, keep)
    joint = model.encode_pair(x, model.text_embed(ids, valid, train=False), valid)
    logits = model.match_head(model.pool(joint, valid_tokens(valid, x.shape[1])))
    return logits[:, 1] - logits[:, 0]

  call = jax.jit(lambda *args: apply(model, *args, method=log_odds))

  def scored(texts: np.ndarray, clips: np.ndarray) -> np.ndarray:
    rows = []
    for start in range(0, len(texts), _ROWS):
      part = np.arange(start, start + _ROWS) % len(texts)  # the last one is filled
      t, c = texts[part], clips[part]
      kept = None if keep is None else keep[c]
      rows.append(np.asarray(call(params, videos[c], kept, ids[t], valid[t])))
    return np.concatenate(rows)[: len(texts)]

  return scored


def fitted(scores: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Weights of scores [t k s] that make right [t k] likeliest, and their errors."""
  found = right.any(axis=1)
  scores, right = scores[found], right[found].astype(np.float64)
  weights = np.zeros(scores.shape[-1])
  for _ in range(20):  # Newton's steps; the logarithm of the likelihood is concave
    logits = scores @ weights
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    gap = scores - (scores * p[..., None]).sum(axis=1, keepdims=True)
    curvature = np.einsum("tki,tkj,tk->ij", gap, gap, p)
    slope = np.einsum("tki,tk->i", scores, right - p)
    weights += np.linalg.solve(curvature, slope)
  return weights, np.sqrt(np.diag(np.linalg.inv(curvature)))


def main(_: list[str]) -> None:
  logging.set_verbosity(logging.WARNING)
  model = load(_CHECKPOINT.value)
  protocol = protocols.get("custom", dict(split=_SPLIT.value))
  context = embed_split.make_context(model, protocol, "", 0)
  source = context.data.open(protocol.split)
  texts, owner = loader.captions(source)
  embed, params = Embedder(context), model.params
  sim = ranks.cosines(embed.texts(params, texts), embed.videos(params, source))
  every = np.arange(len(texts))
  shift = np.random.default_rng(1).integers(1, len(source), len(texts))
  false = dict(random=(owner + shift) % len(source))
  others = sim.copy()
  others[every, owner] = -np.inf
  false["most similar"] = others.argmax(axis=1)
  for mask in (True, False):
    scored = score(context, params, source, texts, mask)
    true = scored(every, owner)
    for kind, clips in false.items():
      right = 50 * ((true > 0).mean() + (scored(every, clips) < 0).mean())
      what = "masked" if mask else "whole"
      print(f"{what} pairs, false clips {kind}: accuracy {right:.1f}", flush=True)
  top = np.argsort(-sim, axis=1, kind="stable")[:, : _TOP.value]
  log_odds = scored(np.repeat(every, top.shape[1]), top.reshape(-1)).reshape(top.shape)
  cosines = np.take_along_axis(sim, top, axis=1)
  temperature = context.objective.match_weight
  rules = {
    "cosine": cosines,
    "log-odds (ALBEF)": log_odds,
    "cosine + log-odds (BLIP)": cosines + log_odds,
    "cosine / temperature + log-odds": cosines / temperature + log_odds,
    rescore.MATCHING: rescore.matching(cosines, log_odds, temperature),
  }
  for rule, scores in rules.items():
    ranked = rescore.rerank(sim, top, scores)
    found = metrics.summarize(metrics.text_to_video_ranks(ranked, owner))
    print(f"top {top.shape[1]} by {rule}: R@1 {found['R@1']:.2f}", flush=True)
  both = np.stack([cosines / temperature, log_odds], axis=-1)
  weights, errors = fitted(both, top == owner[:, None])
  told = zip(("cosine / temperature", "log-odds"), weights, errors, strict=True)
  told = ", ".join(f"{w:.2f} ({error:.2f}) of {name}" for name, w, error in told)
  print(f"likeliest weights on {_SPLIT.value} and their standard errors: {told}")


if __name__ == "__main__":
  app.run(main)
