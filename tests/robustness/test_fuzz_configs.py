"""Damaged configs, command lines and notes: accepted, or rejected in one line."""

import contextlib
import dataclasses
import functools
import io
import json
import math
import shutil
from unittest import mock

import fuzz
from absl import flags
from conftest import ROOT
from fuzz import Case, Inputs
from ml_collections import config_flags
from mutations import edited, edited_bytes, mutate, text, value

from configs import mac, miles, simvtp
from vtr_jax import replay
from vtr_jax.core import cli, config
from vtr_jax.core.errors import CheckpointError
from vtr_jax.data.examples import check_frames
from vtr_jax.eval import protocols
from vtr_jax.eval.evaluators import base as evaluators
from vtr_jax.inference import load as load_lib
from vtr_jax.objectives import base as objectives
from vtr_jax.plan import chips
from vtr_jax.prepare import shards, spool
from vtr_jax.prepare.check import _options
from vtr_jax.prepare.options import Options, Result
from vtr_jax.prepare.place import Place
from vtr_jax.prepare.run import parse_job
from vtr_jax.train import bad_step, workdir
from vtr_jax.train.config import TrainConfig
from vtr_jax.train.loss import check_weights

worker, run, CASES = fuzz.worker, fuzz.run, fuzz.Cases()

CONFIGS = tuple(
  json.loads(json.dumps(m.get_config("smoke").to_dict())) for m in (simvtp, mac, miles)
)


def checked(values):
  """What `experiment.build` checks before it touches data or a device."""
  c = config.read(TrainConfig, values)
  check_frames(c.data, c.clip)
  evaluators.check(c.evals)
  check_weights(c.loss_weights, c.make_objective())
  return c


def edited_config(rng):
  """A nested mapping: keys that are missing, unknown, or of another type."""
  return edited(rng.choice(CONFIGS), rng, rng.randint(1, 3))


DAMAGED_CONFIGS = [
  CONFIGS[0] | {"a\nb": 1},
  CONFIGS[0] | dict(weights={"vtc": 10**400}),
  CONFIGS[0] | dict(evals={"a\nb": 3}),
  CONFIGS[0] | dict(weights={"a\nb": 3.0}),
]


@CASES.reader(25, 6000, Inputs({}, DAMAGED_CONFIGS, edited_config), name="config")
def read_config(values):
  if isinstance(values, dict):
    fuzz.outcome(lambda: checked(values), "config")


def stopped(owner, name):
  """`owner.name` rejects its arguments: what follows needs more files of a run."""
  error = CheckpointError("config.json and dump.json are valid")
  return mock.patch.object(owner, name, side_effect=error)


@CASES.reader(12, 3000, {"config.json": CONFIGS})
def config_of_a_run(folder):
  """As evaluation and search read it, up to where its checkpoint is looked for."""
  with stopped(objectives, "build"):
    fuzz.outcome(lambda: load_lib.load(folder, text=False), "config.json", folder)


BAD_METRICS = {"loss/total": math.nan, "grad_norm": 1.0}
DUMPS = tuple(
  dataclasses.asdict(bad_step.Dump(7, BAD_METRICS, ("a", "b"), c, {})) for c in CONFIGS
)


@CASES.reader(25, 3000, {"dump.json": DUMPS})
def dump_of_a_step(folder):
  """As replay reads it, up to where a model is built from its config."""
  with stopped(TrainConfig, "parts"):
    fuzz.outcome(lambda: replay.replay(folder), "dump.json", folder)


@CASES.reader(10, 2000, {"config.json": CONFIGS, "checkpoints/1/data": b""})
def resumed_run(folder):
  fuzz.outcome(lambda: workdir.prepare(folder, CONFIGS[0]), folder)


def command_line(*words):
  """Values of the config that absl and ml_collections parse; None if rejected."""
  given, argv, errors = flags.FlagValues(), ["main", *words], io.StringIO()
  chosen = config_flags.DEFINE_config_file(
    "config", None, flag_values=given, sys_argv=argv, lock_config=True
  )
  code = None
  with mock.patch.object(flags, "FLAGS", given), fuzz.bounded():
    try:
      with contextlib.redirect_stderr(errors):
        cli._parse(argv)
    except SystemExit as e:
      code = e.code
  if code is None:
    return fuzz.outcome(lambda: cli.load(chosen, ""), "config")
  line = errors.getvalue().removesuffix("\n")
  assert code == 2
  assert line.startswith("ConfigError: command line: ")
  assert line.splitlines() == [line], repr(line)
  return None


def overrides(rng):
  """Words of a command line: --config.key=value."""
  flat = config.flatten(CONFIGS[0])
  words = []
  for _ in range(rng.randint(1, 2)):
    key, before = rng.choice(list(flat.items()))
    given = rng.choice((text(rng), repr(value(rng)), repr(before)))
    given = edited_bytes(given.encode(errors="replace"), rng, rng.randrange(2))
    parts = key.split(".")
    if rng.random() < 0.3:
      parts[rng.randrange(len(parts))] = text(rng) or "x"
    words.append(f"--config.{'.'.join(parts)}={given.decode(errors='replace')}")
  return words


@CASES.reader(12, 1500, Inputs({}, make=overrides), name="overrides")
def read_overrides(words):
  file = f"--config={ROOT / 'configs' / 'simvtp.py'}:smoke"
  if (values := command_line(file, *words)) is not None:
    fuzz.outcome(lambda: checked(values), "config")


CONFIG_FILE = (
  "def get_config(variant='a'):\n  from ml_collections import ConfigDict\n"
  "  return ConfigDict(dict(name=variant, steps=3, part=dict(x=(1, 2))))\n"
)


@CASES.reader(8, 800, {"mine.py": CONFIG_FILE})
def config_file(folder):
  """A file that is not Python, or not a config; it is the user's own, and it is run."""
  if values := command_line(f"--config={folder / 'mine.py'}:b"):
    fuzz.outcome(lambda: config.read(TrainConfig, values), "config")


WORDS = {  # flag: (its reader, valid values)
  "topology": (
    lambda text: chips.find(text, compiler=False),
    ("v5e:16x16", "v4:2x2x1", "tpu7x:4x4x4", "local"),
  ),
  "shard": (parse_job, ("0/8", "2/8", "9" * 5000 + "/8")),
  "protocol": (
    lambda text: protocols.get("custom", protocols.parse(text.split("\n"))),
    ("ties=optimistic", "frames=4\nclasses={'a': ('b',)}", "prompts=('{}',)"),
  ),
  "place": (lambda text: Place("out", text), ("mine", "my_set")),
}


def damaged_word(valid, rng):
  data = mutate(rng.choice(valid), rng)
  return text(rng) if rng.random() < 0.2 else data.decode(errors="replace")


def read_word(read, word):
  fuzz.outcome(lambda: read(word))


for flag, (read, valid) in WORDS.items():
  inputs = Inputs({}, make=functools.partial(damaged_word, valid))
  CASES.append(Case(f"--{flag}", (8, 1500), inputs, functools.partial(read_word, read)))


MANIFEST = dict(options=json.loads(json.dumps(vars(Options()))), name="x", seed=1)


@CASES.reader(8, 1500, {"mine/1.0.0/manifest.json": MANIFEST})
def manifest(folder):
  """Of a prepared data set, and the plan of an unfinished one."""
  place = Place(str(folder), "mine")
  place.work.mkdir()
  shutil.copy(place.directory / "manifest.json", place.work / "plan.json")
  fuzz.outcome(lambda: _options(str(place.directory)), place.root)
  fuzz.outcome(lambda: place.confirm(MANIFEST), place.root)
  fuzz.outcome(lambda: place.start(MANIFEST), place.root)


RESULT = Result(b"data" * 9, "", ("odd",), 3, 0.5, 8, 8)


def spooled(folder):
  spool.write(folder / "item", RESULT)
  data = (folder / "item").read_bytes()
  return Inputs({"item": data}, [{"item": data[:8] + b"\xff" * 12 + data[20:]}])


@CASES.reader(10, 1500, spooled, name="spooled-result")
def read_spooled(folder):
  """The result of an item that a crash has damaged."""
  with fuzz.bounded():
    assert spool.read(folder / "item") in (None, RESULT)


@CASES.each
def test_damaged_input_is_rejected_in_one_line(run, case, count):
  run(case, count)


@fuzz.sized(10, 1500)
def test_any_text_that_prepare_writes_is_read_back(record_property, tmp_path, count):
  def check(values):
    shards.write_json(tmp_path / "a.json", values)
    assert repr(shards.read_json(tmp_path / "a.json")) == repr(values)

  make = lambda rng: {text(rng): value(rng)}
  fuzz.explore(record_property, "notes", count, make, check, {"\udce9": "\udce9\n"})
