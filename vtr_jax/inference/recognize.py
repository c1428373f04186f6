"""Tests a fine-tuned classifier on a prepared split, as a protocol requires."""

from typing import Any

import jax

from vtr_jax.eval.evaluators import recognition
from vtr_jax.eval.protocols import Protocol
from vtr_jax.inference import embed_split
from vtr_jax.inference.load import load

_CURE = (
  "; fine-tune it by configs/finetune_actions.py, or give a protocol of embeddings"
)


def recognize(
  checkpoint: str, protocol: Protocol, data: str = "", batch_size: int = 0
) -> tuple[recognition.Evaluator, dict[str, float], dict[str, Any]]:
  """Classifies the clips of the split of `protocol`.

  Args:
    checkpoint: directory of a run.
    protocol: of task "actions".
    data: prepared data, a directory or a name in the run's data.dir; "" = the run's.
    batch_size: clips per batch; 0 = the run's.

  Returns:
    The evaluator, which reports and draws the results; the results; their provenance.

  Raises:
    VtrError: the run or the data cannot be used, or do not fit; raised before a clip is
      decoded.
  """
  model = load(checkpoint)
  model.objective.prediction("logits", "--checkpoint", _CURE)
  context = embed_split.make_context(model, protocol, data, batch_size)
  config = recognition.Config(
    split=protocol.split, windows=protocol.windows, crops=protocol.crops
  )
  evaluator = recognition.Evaluator(config, context, jax.process_index() == 0)
  source = context.data.open(protocol.split)
  origin = embed_split.manifest(checkpoint, model, context, source, protocol)
  return evaluator, evaluator.run(model.params), origin
