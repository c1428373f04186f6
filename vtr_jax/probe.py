"""Trains a probe: a classifier of labelled clips on a run's frozen video features.

  python -m vtr_jax.probe --checkpoint=runs/mine --kind=linear
  python -m vtr_jax.probe --checkpoint=runs/mine --kind=attentive --data=hmdb51
  ... --lr=0.3 --epochs=30         instead of the recipe in inference/classifier.py

Trains on the split `train` and tests on --split. Prints top-1, top-5 and per-class
accuracy and writes results.json, classes.md and confusion.png to --out. Features are
cached there, or, if that is in a bucket, on this machine, for further learning rates.
One process, with all of its devices.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from absl import flags

from vtr_jax.core import buckets, cli, sharding
from vtr_jax.core.config import choose, nearest, require
from vtr_jax.core.errors import DataError
from vtr_jax.core.mirror import Mirror
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
  """What to probe, and how; the command's flags."""

  checkpoint: str  # directory of a run
  kind: str = "linear"  # linear | attentive
  data: str = ""  # prepared data: a directory, or a name in the run's; "" = the run's
  split: str = "test"  # tested
  lr: float = 0.0  # peak learning rate; 0 = the recipe's
  epochs: int = 0  # 0 = the recipe's
  batch_size: int = 0  # of feature extraction; 0 = the run's eval_batch_size
  out: str = ""  # output directory; "" = probes/<kind> in the run's

  def __post_init__(self):
    require(bool(self.checkpoint), "--checkpoint: missing; the --workdir of a training")
    choose(self.kind, RECIPES, "--kind")
    require(self.lr >= 0, f"--lr: {self.lr} is negative")
    require(self.epochs >= 0, f"--epochs: {self.epochs} is negative")
    require(self.split != TRAIN, f"--split: {TRAIN!r} is the probe's training split")

  @property
  def recipe(self) -> Recipe:
    """The kind's recipe with the flags' changes."""
    default = RECIPES[self.kind]
    lr, epochs = self.lr or default.lr, self.epochs or default.epochs
    return dataclasses.replace(default, lr=lr, epochs=epochs)


def probe(request: Request) -> dict[str, float]:
  """Extracts features, trains, tests, prints and writes; returns the metrics.

  Returns:
    top1, top5 and mean_class_top1 of the tested split, in percent, and train_top1.

  Raises:
    VtrError: one line that says what to fix; see errors.py.
  """
  model = load(request.checkpoint, text=False)
  data = embed_split.with_data(model.config.data, request.data)
  batch_size = request.batch_size or model.config.eval_batch_size
  sharding.check_batch_size(batch_size, model.mesh, "--batch_size")
  splits = {name: data.open(name) for name in (TRAIN, request.split)}
  labels = {name: zero_shot.labels(split) for name, split in splits.items()}
  names = _classes(labels[TRAIN], labels[request.split], request.split)
  index = {name: i for i, name in enumerate(names)}
  y = {k: np.array([index[label] for label in v]) for k, v in labels.items()}
  run = request.checkpoint.rstrip("/")
  place = Mirror(request.out or f"{run}/probes/{request.kind}", fresh=True)
  cache = place.local / "features"
  if place.remote:
    cache = buckets.scratch(place.name, "features")
  x = {
    name: features.of_split(
      model,
      data,
      split,
      _FEATURES[request.kind],
      cache,
      batch_size,
    )
    for name, split in splits.items()
  }
  fitted = classifier.fit(request.kind, request.recipe, x[TRAIN], y[TRAIN], len(names))
  train, _ = metrics.recognition(fitted.scores(x[TRAIN]), y[TRAIN])
  results, confusion = metrics.recognition(
    fitted.scores(x[request.split]), y[request.split]
  )
  results |= dict(train_top1=train["top1"])
  report = zero_shot.report(request.split, results, confusion)
  report += "\n" + zero_shot.table(names, confusion)
  print(f"{report}\ntop-1 of {TRAIN}: {train['top1']:.1f}", flush=True)
  inputs = _inputs(model, data, splits, x[TRAIN].shape[1:])
  place.local.mkdir(parents=True, exist_ok=True)
  _write(place.local, request, names, results, confusion, inputs)
  place.finish()
  files = "results.json, classes.md and confusion.png"
  print(f"{files} are in {place.name}", flush=True)
  return results


def _classes(train: list[str], tested: list[str], split: str) -> list[str]:
  """The labels of the training split, sorted.

  Raises:
    DataError: there is only one, or the tested split has others.
  """
  names = sorted(set(train))
  if len(names) < 2:
    raise DataError(
      f"{TRAIN}: all {len(train)} clips have the label {names[0]!r}; give two classes"
    )
  if others := set(tested) - set(names):
    label = min(others)
    raise DataError(
      f"{split}: its label {label!r} is not among the {len(names)} of {TRAIN}; "
      f"{nearest(label, names)}"
    )
  return names


def _inputs(
  model: LoadedModel,
  data: DataConfig,
  splits: dict[str, sources.Split],
  features_shape: tuple[int, ...],
) -> dict[str, Any]:
  """Model, data and features, for results.json."""
  c = model.config
  return dict(
    model=dict(run=c.name, step=model.step, objective=c.objective["name"]),
    data=data.name,
    splits={
      name: dict(clips=len(s), fingerprint=sources.fingerprint(s.directory, name))
      for name, s in splits.items()
    },
    features=dict(
      shape=list(features_shape),
      frames=c.clip.num_frames,
      size=c.clip.image_size,
      sampling=f"{data.sampling}, deterministic, one centred clip",
    ),
  )


def _write(
  out: pathlib.Path,
  request: Request,
  names: list[str],
  results: dict[str, float],
  confusion: np.ndarray,
  inputs: dict[str, Any],
) -> None:
  clips = confusion.sum(axis=1)
  top1 = 100 * np.diag(confusion) / np.maximum(clips, 1)
  by_class = {n: float(top1[i]) for i, n in enumerate(names) if clips[i]}
  values = dict(kind=request.kind, results=results, classes=by_class)
  values |= dict(recipe=dataclasses.asdict(request.recipe), split=request.split)
  workdir.write_json(
    out / "results.json", values | inputs | dict(provenance=workdir.provenance())
  )
  (out / "classes.md").write_text(zero_shot.table(names, confusion) + "\n")
  title = f"{request.kind} probe, {request.split}: top-1 {results['top1']:.1f} %"
  plots.confusion(out / "confusion.png", confusion, names, title)


def _from_flags(values: flags.FlagValues) -> Request:
  names = [field.name for field in dataclasses.fields(Request)]
  return Request(**{name: getattr(values, name) for name in names})


def _define_flags() -> None:
  string, integer = flags.DEFINE_string, flags.DEFINE_integer
  string("checkpoint", "", "A run's --workdir; its newest checkpoint is probed.")
  string("kind", "linear", f"One of {', '.join(RECIPES)}.")
  string("data", "", "Prepared data, a directory or a name; the run's own if empty.")
  string("split", "test", "Split to test on; the probe trains on train.")
  flags.DEFINE_float("lr", 0.0, "Peak learning rate; the recipe's if 0.")
  integer("epochs", 0, "The recipe's if 0.")
  integer("batch_size", 0, "Clips per batch of feature extraction; the run's if 0.")
  string("out", "", "Output directory; probes/<kind> in the run's if empty.")


if __name__ == "__main__":
  _define_flags()
  cli.run(lambda: probe(_from_flags(flags.FLAGS)))
