"""One line that explains the loss terms: weights, and their values at chance."""

import math

from vtr_jax.objectives.contrastive import ContrastConfig
from vtr_jax.train.config import TrainConfig


def describe(config: TrainConfig, names: tuple[str, ...]) -> str:
  """The weighted sum and what each term is; a term of weight 0 is left out.

  Args:
    config: of the run.
    names: of the objective's loss terms.
  """
  meanings = dict(
    vtc=f"video-text contrast, chance {chance(config.contrastive, config.batch_size)}",
    vtm=f"video-text matching, chance log 2 = {math.log(2):.2f}",
    mlm="cross entropy of masked tokens, chance log(vocabulary) = "
    f"{math.log(config.text.vocab_size):.2f}",
    pixels="mean squared error of masked patches",
    features="distance to the teacher's features",
    answers="cross entropy of answers or options, or squared error of counts",
    actions="cross entropy of the (mixed and smoothed) labels",
  )
  weights = {k: w for k in names if (w := config.loss_weights[k])}
  total = " + ".join(k if w == 1 else f"{w:g} {k}" for k, w in weights.items())
  listed = "; ".join(f"{k}: {meanings.get(k, 'own term')}" for k in weights)
  return f"loss: total = {total}; {listed}"


def chance(config: ContrastConfig, batch_size: int) -> str:
  """The contrastive loss of embeddings that carry no information, as text."""
  b = batch_size
  if config.loss == "info_nce":  # the sum of both directions, each log(batch)
    return f"2 log(batch) = {2 * math.log(b):.2f}"
  # Sigmoid: each row has b binary questions, of which one is true; the best constant
  # answer is 1 / b, with an entropy of b H(1 / b) a row.
  entropy = b * math.log(b) - (b - 1) * math.log(b - 1)
  return f"batch * H(1 / batch) = {entropy:.2f}"
