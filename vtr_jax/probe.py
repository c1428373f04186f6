"""Trains a classifier of labelled clips on a run's frozen video features.

  python -m vtr_jax.probe --checkpoint=runs/mine --kind=linear
  python -m vtr_jax.probe --checkpoint=runs/mine --kind=attentive --data=hmdb51
  ... --lr=0.3 --epochs=30         another recipe than classify.py has, with its sources

Learns from the split `train`, is tested on --split. Prints top-1, top-5 and each class,
and writes results.json, classes.md and confusion.png into --out; the features stay
there too, for another learning rate. One process, with all of its devices.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from absl import flags

from vtr_jax.core import cli, sharding
from vtr_jax.core.config import choose, nearest, require
from vtr_jax.core.errors import DataError
from vtr_jax.data import sources
from vtr_jax.data.examples import DataConfig
from vtr_jax.eval import metrics
from vtr_jax.eval.evaluators import zero_shot
from vtr_jax.eval.viz import plots
from vtr_jax.inference import classifier, embed_split, features
from vtr_jax.inference.classifier import RECIPES, Recipe
from vtr_jax.inference.load import load
from vtr_jax.inference.model import LoadedModel
from vtr_jax.train import workdir

TRAIN = "train"
_FEATURES = dict(linear="pooled", attentive="tokens")


@dataclasses.dataclass(frozen=True)
class Request:
  """What is probed, and how."""

  checkpoint: str  # directory of a run
  kind: str = "linear"  # linear | attentive
  data: str = ""  # prepared data: a directory, or a name in the run's; "" = the run's
  split: str = "test"  # that is tested
  lr: float = 0.0  # peak learning rate; 0 = the recipe's
  epochs: int = 0  # 0 = the recipe's
  batch_size: int = 0  # clips embedded at once; 0 = the run's eval_batch_size
  out: str = ""  # directory of what is written; "" = probes/<kind> in the run's

  def __post_init__(self):
    require(bool(self.checkpoint), "--checkpoint: missing; the --workdir of a training")
    choose(self.kind, RECIPES, "--kind")
    require(self.lr >= 0, f"--lr: {self.lr} is negative")
    require(self.epochs >= 0, f"--epochs: {self.epochs} is negative")
    require(self.split != TRAIN, f"--split: {TRAIN!r} is what the probe learns from")

  @property
  def recipe(self) -> Recipe:
    default = RECIPES[self.kind]
    lr, epochs = self.lr or default.lr, self.epochs or default.epochs
    return dataclasses.replace(default, lr=lr, epochs=epochs)


def probe(request: Request) -> dict[str, float]:
  """Embeds both splits, trains, tests, prints, writes; returns the numbers.

  Returns:
    top1, top5 and mean_class_top1 of the tested split, in percent, and train_top1.

  Raises:
    VtrError: with one line that says what to fix; see errors.py.
  """
  model = load(request.checkpoint, text=False)
  data = embed_split.other_data(model.config.data, request.data)
  batch_size = request.batch_size or model.config.eval_batch_size
  sharding.check_batch_size(batch_size, model.mesh, "--batch_size")
  splits = {name: data.open(name) for name in (TRAIN, request.split)}
  labels = {name: zero_shot.labels(split) for name, split in splits.items()}
  names = _classes(labels[TRAIN], labels[request.split], request.split)
  number = {name: i for i, name in enumerate(names)}
  owner = {k: np.array([number[label] for label in v]) for k, v in labels.items()}
  out = pathlib.Path(
    request.out or pathlib.Path(request.checkpoint) / "probes" / request.kind
  )
  what = _FEATURES[request.kind]
  found = {
    name: features.of_split(model, data, split, what, out / "features", batch_size)
    for name, split in splits.items()
  }
  fitted = classifier.fit(
    request.kind, request.recipe, found[TRAIN], owner[TRAIN], len(names)
  )
  own, _ = metrics.recognition(fitted.scores(found[TRAIN]), owner[TRAIN])
  scores = fitted.scores(found[request.split])
  numbers, confusion = metrics.recognition(scores, owner[request.split])
  numbers |= dict(train_top1=own["top1"])
  report = zero_shot.report(request.split, numbers, confusion)
  report += "\n" + zero_shot.table(names, confusion)
  print(f"{report}\ntop-1 of {TRAIN}: {own['top1']:.1f}", flush=True)
  _write(
    out, request, names, numbers, confusion, _provenance(model, data, splits, found)
  )
  return numbers


def _classes(train: list[str], tested: list[str], split: str) -> list[str]:
  """The labels of the training split, sorted.

  Raises:
    DataError: there is one alone, or the tested split has others.
  """
  names = sorted(set(train))
  if len(names) < 2:
    raise DataError(
      f"{TRAIN}: all {len(train)} clips have the label {names[0]!r}; a probe needs two"
    )
  if others := set(tested) - set(names):
    label = min(others)
    raise DataError(
      f"{split}: its label {label!r} is none of the {len(names)} of {TRAIN}; "
      f"{nearest(label, names)}"
    )
  return names


def _provenance(
  model: LoadedModel,
  data: DataConfig,
  splits: dict[str, sources.Split],
  found: dict[str, np.ndarray],
) -> dict[str, Any]:
  """What was probed, for results.json."""
  c = model.config
  return dict(
    model=dict(run=c.name, step=model.step, objective=c.objective["name"]),
    data=data.name,
    splits={
      name: dict(clips=len(s), fingerprint=sources.fingerprint(s.directory, name))
      for name, s in splits.items()
    },
    features=dict(
      shape=list(found[TRAIN].shape[1:]),
      frames=c.clip.num_frames,
      size=c.clip.image_size,
      sampling=f"{data.sampling}, deterministic, one centred clip",
    ),
  )


def _write(
  out: pathlib.Path,
  request: Request,
  names: list[str],
  numbers: dict[str, float],
  confusion: np.ndarray,
  told: dict[str, Any],
) -> None:
  share = 100 * np.diag(confusion) / np.maximum(confusion.sum(axis=1), 1)
  clips = confusion.sum(axis=1)
  by_class = {n: float(share[i]) for i, n in enumerate(names) if clips[i]}
  values = dict(kind=request.kind, results=numbers, classes=by_class)
  values |= dict(recipe=dataclasses.asdict(request.recipe), split=request.split)
  workdir.write_json(
    out / "results.json", values | told | dict(provenance=workdir.provenance())
  )
  (out / "classes.md").write_text(zero_shot.table(names, confusion) + "\n")
  title = f"{request.kind} probe, {request.split}: top-1 {numbers['top1']:.1f} %"
  plots.confusion(out / "confusion.png", confusion, names, title)
  print(f"results.json, classes.md and confusion.png are in {out}", flush=True)


def _from_flags(values: flags.FlagValues) -> Request:
  names = [field.name for field in dataclasses.fields(Request)]
  return Request(**{name: getattr(values, name) for name in names})


def _define_flags() -> None:
  string, integer = flags.DEFINE_string, flags.DEFINE_integer
  string("checkpoint", "", "A run's --workdir; its newest checkpoint is probed.")
  string("kind", "linear", f"One of {', '.join(RECIPES)}.")
  string("data", "", "Prepared data, a directory or a name; the run's own if empty.")
  string("split", "test", "That is tested; the probe learns from train.")
  flags.DEFINE_float("lr", 0.0, "Peak learning rate; the recipe's if 0.")
  integer("epochs", 0, "The recipe's if 0.")
  integer("batch_size", 0, "Clips embedded at once; the run's if 0.")
  string("out", "", "Directory to write to; probes/<kind> in the run's if empty.")


if __name__ == "__main__":
  _define_flags()
  cli.run(lambda: probe(_from_flags(flags.FLAGS)))
