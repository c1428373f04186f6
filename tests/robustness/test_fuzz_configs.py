"""Whatever a config or a command line says: a config, or one line with the key."""

import dataclasses
import json
import math

import fuzz
import pytest
from absl import flags
from conftest import ROOT
from ml_collections import config_flags

from configs import mac, miles, simvtp
from vtr_jax import replay, study
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

CONFIGS = [
  json.loads(json.dumps(m.get_config("smoke").to_dict())) for m in (simvtp, mac, miles)
]

DAMAGED = (b"", b"3", b"\xff", b"[" * 99_999, b"9" * 5000, b'{"optim": true}')


def checked(values):
  """What `experiment.build` checks before it touches data or a device."""
  c = config.read(TrainConfig, values)
  check_frames(c.data, c.clip)
  evaluators.check(c.evals)
  check_weights(c.loss_weights, c.make_objective())
  return c


@fuzz.sized(25, 6000)
def test_configs(record_property, count):
  """Of any nested mapping: keys that are missing, unknown, or of another type."""

  def make(rng):
    return fuzz.edited(rng.choice(CONFIGS), rng, rng.randint(1, 3))

  def check(values):
    if isinstance(values, dict):
      fuzz.outcome(lambda: checked(values), "config")

  found = (
    CONFIGS[0] | {"a\nb": 1},
    CONFIGS[0] | dict(weights={"vtc": 10**400}),
    CONFIGS[0] | dict(evals={"a\nb": 3}),
    CONFIGS[0] | dict(weights={"a\nb": 3.0}),
  )
  fuzz.explore(record_property, "configs", count, fuzz.from_random(make), check, *found)


@fuzz.sized(12, 3000)
def test_the_config_of_a_run(record_property, tmp_path, monkeypatch, count):
  """As evaluation and search read it, up to where its checkpoint is looked for."""

  def built(*_):
    raise CheckpointError("config.json is good")

  monkeypatch.setattr(objectives, "build", built)
  path = tmp_path / "config.json"

  def check(data):
    path.write_bytes(data)
    fuzz.outcome(lambda: load_lib.load(tmp_path, text=False), "config.json", tmp_path)

  strategy = fuzz.mutated(*CONFIGS)
  fuzz.explore(record_property, "config.json", count, strategy, check, *DAMAGED)


@fuzz.sized(25, 3000)
def test_the_dump_of_a_step(record_property, monkeypatch, tmp_path, count):
  """As replay reads it, up to where a model is built from its config."""

  def read(*_):
    raise CheckpointError("dump.json is good")

  monkeypatch.setattr(TrainConfig, "parts", read)
  path = tmp_path / "dump.json"
  numbers = {"loss/total": math.nan, "grad_norm": 1.0}
  whole = [bad_step.Dump(7, numbers, ("a", "b"), c, {}) for c in CONFIGS]

  def check(data):
    path.write_bytes(data)
    fuzz.outcome(lambda: replay.replay(tmp_path), "dump.json", tmp_path)

  strategy = fuzz.mutated(*map(dataclasses.asdict, whole))
  fuzz.explore(record_property, "dump.json", count, strategy, check, *DAMAGED)


@fuzz.sized(10, 2000)
def test_continuing_a_run(record_property, tmp_path, count):
  (tmp_path / "checkpoints" / "1").mkdir(parents=True)
  path = tmp_path / "config.json"

  def check(data):
    path.write_bytes(data)
    fuzz.outcome(lambda: workdir.prepare(tmp_path, CONFIGS[0]), tmp_path)

  strategy = fuzz.mutated(*CONFIGS)
  fuzz.explore(record_property, "workdir", count, strategy, check, *DAMAGED)


def overrides(rng):
  """Words of a command line."""
  flat = config.flatten(CONFIGS[0])
  words = []
  for _ in range(rng.randint(1, 2)):
    key, before = rng.choice(list(flat.items()))
    given = rng.choice((fuzz.text(rng), repr(fuzz.value(rng)), repr(before)))
    given = fuzz.edited_bytes(given.encode(errors="replace"), rng, rng.randrange(2))
    parts = key.split(".")
    if rng.random() < 0.3:
      parts[rng.randrange(len(parts))] = fuzz.text(rng) or "x"
    words.append(f"--config.{'.'.join(parts)}={given.decode(errors='replace')}")
  return words


def parsed(argv, capsys):
  """Whether the words are taken; if not, one line says why."""
  capsys.readouterr()
  with fuzz.bounded():
    try:
      cli._parse(argv)
      return True
    except SystemExit as e:
      code = e.code
  line = capsys.readouterr().err.removesuffix("\n")
  assert code == 2
  assert line.startswith("ConfigError: command line: ")
  assert line.splitlines() == [line], repr(line)
  return False


@fuzz.sized(12, 1500)
def test_overrides(record_property, monkeypatch, capsys, count):
  """--config.key=value, through absl and ml_collections to the checked config."""
  file = f"--config={ROOT / 'configs' / 'simvtp.py'}:smoke"

  def check(words):
    given, argv = flags.FlagValues(), ["main", file, *words]
    chosen = config_flags.DEFINE_config_file(
      "config", None, flag_values=given, sys_argv=argv, lock_config=True
    )
    monkeypatch.setattr(flags, "FLAGS", given)
    if parsed(argv, capsys):
      fuzz.outcome(lambda: checked(cli.load(chosen, "")), "config")

  fuzz.explore(record_property, "overrides", count, fuzz.from_random(overrides), check)


FILES = (
  "def get_config(variant='a'):\n  from ml_collections import ConfigDict\n"
  "  return ConfigDict(dict(name=variant, steps=3, part=dict(x=(1, 2))))\n"
)


@fuzz.sized(8, 800)
def test_config_files(record_property, tmp_path, monkeypatch, capsys, count):
  """A file that is no Python, or no config; it is the user's own, and it is run."""

  def check(data):
    path = tmp_path / "mine.py"
    path.write_bytes(data)
    given, argv = flags.FlagValues(), ["main", f"--config={path}:b"]
    chosen = config_flags.DEFINE_config_file(
      "config", None, flag_values=given, sys_argv=argv, lock_config=True
    )
    monkeypatch.setattr(flags, "FLAGS", given)
    if not parsed(argv, capsys):
      return
    if values := fuzz.outcome(lambda: cli.load(chosen, "")):
      fuzz.outcome(lambda: config.read(TrainConfig, values), "config")

  fuzz.explore(record_property, "config files", count, fuzz.mutated(FILES), check)


WORDS = {  # what reads them, and what they may be
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


@pytest.mark.parametrize("kind", WORDS)
@fuzz.sized(8, 1500)
def test_words_of_commands(record_property, kind, count):
  read, examples = WORDS[kind]

  def make(rng):
    data = fuzz.mutate(rng.choice(examples), rng)
    return fuzz.text(rng) if rng.random() < 0.2 else data.decode(errors="replace")

  check = lambda text: fuzz.outcome(lambda: read(text))
  fuzz.explore(record_property, f"--{kind}", count, fuzz.from_random(make), check)


MANIFEST = dict(options=json.loads(json.dumps(vars(Options()))), name="x", seed=1)


@fuzz.sized(8, 1500)
def test_what_prepare_has_noted(record_property, tmp_path, count):
  """Of a data set that is there, and of one that was begun."""
  place = Place(str(tmp_path), "mine")
  place.directory.mkdir(parents=True)
  place.work.mkdir()

  def check(data):
    (place.directory / "manifest.json").write_bytes(data)
    (place.work / "plan.json").write_bytes(data)
    for call in (
      lambda: _options(str(place.directory)),
      lambda: place.confirm(MANIFEST),
      lambda: place.start(MANIFEST),
    ):
      fuzz.outcome(call, place.root)

  strategy = fuzz.mutated(MANIFEST)
  fuzz.explore(record_property, "manifest.json", count, strategy, check, *DAMAGED)


@fuzz.sized(10, 1500)
def test_what_prepare_writes_down(record_property, tmp_path, count):
  """Any names and reasons; and results of items that a crash has damaged."""
  whole = Result(b"data" * 9, "", ("odd",), 3, 0.5, 8, 8)
  spool.write(tmp_path / "item", whole)
  data = (tmp_path / "item").read_bytes()

  def check(drawn):
    value, changed = drawn
    shards.write_json(tmp_path / "a.json", value)
    assert repr(shards.read_json(tmp_path / "a.json")) == repr(value)
    (tmp_path / "item").write_bytes(changed)
    with fuzz.bounded():
      assert spool.read(tmp_path / "item") in (None, whole)

  def make(rng):
    return {fuzz.text(rng): fuzz.value(rng)}, fuzz.mutate(data, rng)

  large = data[:8] + b"\xff" * 12 + data[20:]
  strategy, found = fuzz.from_random(make), ({"\udce9": "\udce9\n"}, large)
  fuzz.explore(record_property, "prepare's notes", count, strategy, check, found)


RESULT = dict(numbers={m: 1.5 for m in study.METRICS}, ms=3.0, gflop=0.5)


@fuzz.sized(5, 800)
def test_results_of_a_study(record_property, tmp_path, count):
  table = study.Table("t", "mac:demo", {}, (study.Row("r", {}),))
  asked = study.StudyConfig("s", "", (0,), dict(test={}), "test", (table,))
  place = tmp_path / "t-r" / "0"
  place.mkdir(parents=True)

  def check(data):
    (place / "study.json").write_bytes(data)
    found = fuzz.outcome(lambda: study._collect(asked, tmp_path), place)
    if found:
      study.to_markdown(asked, found)

  strategy = fuzz.mutated(RESULT)
  fuzz.explore(record_property, "study.json", count, strategy, check, *DAMAGED)
