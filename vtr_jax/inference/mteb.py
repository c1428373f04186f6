"""A run as an encoder of the `mteb` benchmark package (2.26), for video and text.

  import mteb
  from vtr_jax.inference.mteb import Encoder
  tasks = mteb.get_tasks(tasks=["MSVDT2VRetrieval"])
  mteb.evaluate(Encoder("runs/mine"), tasks)

mteb is not a dependency: install it separately; it depends on PyTorch.
"""

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from vtr_jax.core.errors import DataError
from vtr_jax.eval import ranks
from vtr_jax.inference.load import load


class Encoder:
  """Implements mteb's EncoderProtocol; a video is embedded by its centred clip."""

  def __init__(
    self,
    model_name: str,
    revision: str | None = None,
    *,
    device: str | None = None,
    **kwargs: Any,
  ):
    """Loads a run.

    Args:
      model_name: directory of the run.
      revision: ignored; mteb passes it.
      device: ignored; JAX chooses its devices.
      **kwargs: ignored; mteb may pass some.

    Raises:
      CheckpointError: see `inference.load.load`.
    """
    del revision, device, kwargs
    self._model = load(model_name)

  def encode(
    self, inputs: Iterable[Mapping[str, Any]], **kwargs: Any
  ) -> Float[np.ndarray, "n e"]:
    """Unit-norm embeddings.

    Args:
      inputs: batches with "video" (torchcodec's VideoDecoder, or uint8 frames
        [t c h w]) or else "text" (str).
      **kwargs: task_metadata, hf_split, hf_subset, prompt_type, batch_size ...;
        ignored: texts have no instruction.

    Raises:
      DataError: a batch has neither, or a text is empty.
    """
    del kwargs
    rows = []
    for batch in inputs:
      if "video" in batch:
        rows.append(self._model.embed_clips(map(self._clip, batch["video"])))
      elif "text" in batch:
        rows.append(self._model.embed_text(batch["text"]))
      else:
        raise DataError(
          f"mteb: a batch of {sorted(batch)}; this model embeds video, text"
        )
    return np.concatenate(rows)

  def similarity(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:
    """Cosines of all pairs, [n, m]."""
    return ranks.cosines(np.asarray(embeddings1), np.asarray(embeddings2))

  def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:
    """Cosines of corresponding rows, [n]."""
    return np.einsum("ne,ne->n", np.asarray(embeddings1), np.asarray(embeddings2))

  @property
  def mteb_model_meta(self) -> Any:
    """The model's description in mteb's results."""
    meta = importlib.import_module("mteb.models.model_meta")
    c = self._model.config
    return meta.ModelMeta(
      loader=None,
      name=f"vtr_jax/{c.name}",
      revision=str(self._model.step),
      release_date=None,
      languages=["eng-Latn"],
      n_parameters=None,
      memory_usage_mb=None,
      max_tokens=c.text.max_length,
      embed_dim=None,
      license=None,
      open_weights=None,
      public_training_code=None,
      public_training_data=None,
      framework=["JAX"],
      similarity_fn_name="cosine",
      use_instructions=False,
      training_datasets=None,
      modalities=["text", "video"],
    )

  def _clip(self, video: Any) -> UInt8[np.ndarray, "t h w 3"]:
    """The centred clip of a torchcodec decoder or of frames [t c h w]."""
    indices = self._model.indices(len(video))
    if hasattr(video, "get_frames_at"):
      frames = np.asarray(video.get_frames_at(indices=indices.tolist()).data)
    else:
      frames = np.asarray(video)[indices]
    return self._model.resized(frames.transpose(0, 2, 3, 1))
