"""Embeds a prepared split with a trained model, as a protocol requires."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from vtr_jax.core import sharding
from vtr_jax.core.config import require
from vtr_jax.core.errors import BadSample, ConfigError, DataError
from vtr_jax.data import captions as captions_lib
from vtr_jax.data import sources
from vtr_jax.data.examples import DataConfig
from vtr_jax.data.views import Views
from vtr_jax.eval import query_texts, scoring
from vtr_jax.eval.embeddings import Embeddings
from vtr_jax.eval.evaluators.base import Context, Embedder, matcher
from vtr_jax.eval.multiple_choice import read_candidates
from vtr_jax.eval.protocols import Protocol
from vtr_jax.eval.scoring import Extras
from vtr_jax.inference.load import load
from vtr_jax.inference.model import LoadedModel
from vtr_jax.objectives.base import Objective
from vtr_jax.train import workdir

# Captions in a query bank, evenly spaced in the training split; ours.
BANK_SIZE = 20_000


@dataclasses.dataclass(frozen=True)
class Clips:
  """Annotations of a split's records, without the videos."""

  ids: list[str]
  labels: list[str]
  captions: list[str]
  owner: np.ndarray  # clip index of each caption


def embed(
  checkpoint: str,
  protocol: Protocol,
  *,
  data: str = "",
  candidates: str = "",
  batch_size: int = 0,
  extras: Extras | None = None,
) -> tuple[Embeddings, scoring.Match | None]:
  """Embeds the split and the texts of `protocol`.

  Args:
    checkpoint: directory of a run.
    protocol: what to embed.
    data: prepared data, a directory or a name in the run's data.dir; "" = the run's.
    candidates: JSON file of a multiple choice; see eval/multiple_choice.py.
    batch_size: clips per batch; 0 = the run's.
    extras: rescoring: QB-norm embeds training captions too.

  Returns:
    The embeddings, and the matching head as a function of text and video indices, or
    None if the objective has none.

  Raises:
    VtrError: the run, the data or the candidates cannot be used, or do not fit the
      protocol or `extras`; raised before anything is embedded.
  """
  extras = extras or Extras()
  model = load(checkpoint)
  context = make_context(model, protocol, data, batch_size)
  for name in ("embed_video", "embed_text"):
    context.objective.prediction(name, "--checkpoint", _classifier(context.objective))
  if extras.rerank and "match" not in context.objective.predict:
    raise ConfigError("rerank: needs a checkpoint with a matching head; use 0")
  source = context.data.open(protocol.split)
  clips = read_clips(source)
  fields = _texts(protocol, clips, candidates, source)
  views = Views(
    context.clip.num_frames,
    context.data.sampling,
    context.data.stride,
    protocol.windows,
    protocol.crops,
  )
  embedder = Embedder(
    context, views, protocol.average, progress=jax.process_index() == 0
  )
  named = lambda i: repr(fields["names"][fields["owner"][i]])
  captions_lib.check(context.tokenizer, fields["texts"], source.place, named)
  bank, bank_ids = _bank(context) if extras.querybank else (None, [])
  empty = lambda rows: np.zeros((len(rows), 0), np.float32)
  e = Embeddings(
    video=empty(clips.ids),
    ids=clips.ids,
    labels=clips.labels,
    text=empty(fields["texts"]),
    bank=None if bank is None else empty(bank),
    bank_ids=bank_ids,
    manifest=manifest(checkpoint, model, context, source, protocol)
    | dict(texts=_texts_manifest(context, protocol), embedded_by=workdir.provenance()),
    **fields,
  )
  scoring.check(e, protocol, extras)
  e = dataclasses.replace(
    e,
    video=embedder.videos(model.params, source),
    text=embedder.texts(model.params, fields["texts"]),
    bank=None if bank is None else embedder.texts(model.params, bank),
  )
  if "match" not in context.objective.predict:
    return e, None
  match = matcher(context, source, fields["texts"])
  return e, functools.partial(match, model.params)


def _classifier(objective: Objective) -> str:
  """Cure for an objective that does not embed texts."""
  if "logits" not in objective.predict:
    return ""
  return "; a classifier has ucf101_ft and others, or --set=task=actions"


def read_clips(source: sources.Split) -> Clips:
  """Reads the annotations of every record; decodes no video.

  Raises:
    DataError: a record cannot be read.
  """
  ids, labels, captions, owner = [], [], [], []
  for index, annotation in enumerate(sources.annotations(source)):
    ids.append(annotation.id)
    labels.append(annotation.label)
    captions += annotation.captions
    owner += [index] * len(annotation.captions)
  return Clips(ids, labels, captions, np.array(owner, np.int64))


def _texts(
  protocol: Protocol, clips: Clips, candidates: str, source: sources.Split
) -> dict[str, Any]:
  """The fields texts, owner, names and right of `Embeddings`."""
  if protocol.task == "choice":
    require(bool(candidates), "--candidates: missing; this is a multiple choice")
    texts, owner, right = read_candidates(candidates, clips.ids)
    return dict(texts=texts, owner=owner, names=clips.ids, right=right)
  require(not candidates, f"--candidates: are not for {protocol.task}; omit it")
  if protocol.task == "retrieval":
    without = np.setdiff1d(np.arange(len(clips.ids)), clips.owner)
    if len(without):
      raise sources.unusable(source, int(without[0]), BadSample("no caption"))
    texts, owner = query_texts.select(clips.captions, clips.owner, protocol.captions)
    return dict(texts=texts, owner=owner, names=clips.ids)
  if "" in clips.labels:
    index = clips.labels.index("")
    raise sources.unusable(source, index, BadSample("no label"))
  phrases = protocol.classes or {
    label: (query_texts.label_phrase(label),) for label in sorted(set(clips.labels))
  }
  texts, owner = query_texts.class_texts(phrases, protocol.prompts)
  return dict(texts=texts, owner=owner, names=list(phrases))


def make_context(
  model: LoadedModel, protocol: Protocol, data: str, batch_size: int
) -> Context:
  """What evaluators need, with the protocol's frames and sampling; see `embed`."""
  c = model.config
  size = batch_size or c.eval_batch_size
  sharding.check_batch_size(size, model.mesh, "--batch_size")
  clip = dataclasses.replace(c.clip, num_frames=protocol.frames or c.clip.num_frames)
  if clip != c.clip:
    _check_frames(model, clip.num_frames)
  return Context(
    model.objective,
    clip,
    c.text,
    _data(c.data, data, protocol),
    model.tokenizer,
    model.mesh,
    size,
  )


def _data(config: DataConfig, data: str, protocol: Protocol) -> DataConfig:
  config = with_data(config, data)
  return dataclasses.replace(config, sampling=protocol.sampling or config.sampling)


def with_data(config: DataConfig, data: str) -> DataConfig:
  """`config` for the prepared data `data`, a directory or name; "" = its own."""
  name = sources.named(data) or config.name
  return dataclasses.replace(config, name=name, curriculum=())


def _check_frames(model: LoadedModel, frames: int) -> None:
  """Rejects a number of frames that the model does not accept."""
  size = model.config.clip.image_size
  video = jax.ShapeDtypeStruct((1, frames, size, size, 3), np.uint8)
  try:
    embed = model.objective.predict["embed_video"]
    jax.eval_shape(embed, model.params, dict(video=video))
  except (TypeError, ValueError) as e:
    own = model.config.clip.num_frames
    raise ConfigError(
      f"protocol: a model of {own} frames does not accept {frames}; --set=frames={own}"
    ) from e


def _bank(context: Context) -> tuple[list[str], list[str]]:
  """Captions of the training split, and the clip id of each."""
  split = context.data.open("train")
  train = read_clips(split)
  if not train.captions:
    raise DataError(f"{split.directory}: train has no caption; omit --querybank")
  indices = np.unique(np.linspace(0, len(train.captions) - 1, BANK_SIZE).astype(int))
  ids = [train.ids[train.owner[i]] for i in indices]
  texts = [train.captions[i] for i in indices]
  captions_lib.check(context.tokenizer, texts, split.place, lambda i: repr(ids[i]))
  return texts, ids


def _texts_manifest(context: Context, protocol: Protocol) -> dict[str, Any]:
  return dict(
    length=context.text.max_length,
    task=protocol.task,
    captions=protocol.captions,
    prompts=list(protocol.prompts) if protocol.task == "recognition" else [],
  )


def manifest(
  checkpoint: str,
  model: LoadedModel,
  context: Context,
  source: sources.Split,
  protocol: Protocol,
) -> dict[str, Any]:
  """Provenance: model, data and clips."""
  c, averages = model.config, dict(actions="softmax", answers="one clip")
  return dict(
    model=dict(
      run=c.name,
      directory=str(checkpoint),
      step=model.step,
      objective=c.objective["name"],
      dtype=context.objective.compute.dtype,
    ),
    data=dict(
      name=context.data.name,
      split=source.name,
      fingerprint=sources.fingerprint(source.directory, source.name),
    ),
    clips_seen=dict(
      frames=context.clip.num_frames,
      size=context.clip.image_size,
      sampling=context.data.sampling,
      stride=context.data.stride,
      windows=protocol.windows,
      crops=protocol.crops,
      average=averages.get(protocol.task, protocol.average),
    ),
  )
