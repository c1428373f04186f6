"""Which dtype "auto" is, and that a run keeps it."""

import functools
import json

import pytest

from configs import mac
from vtr_jax.core import precision
from vtr_jax.core.config import read
from vtr_jax.objectives import base as objectives
from vtr_jax.plan import chips, problem
from vtr_jax.train import setup, workdir
from vtr_jax.train.config import TrainConfig


@pytest.fixture(autouse=True)
def forget():
  precision.cpu_has_bfloat16.cache_clear()
  yield
  precision.cpu_has_bfloat16.cache_clear()


@pytest.mark.parametrize(
  ("text", "flags", "expected"),
  [
    ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16\n", "", True),
    ("flags\t\t: fpu avx2 amx_bf16 amx_tile\n", "", True),
    ("Features\t: fp asimd bf16 i8mm\n", "", True),  # ARM
    ("flags\t\t: fpu avx2 avx512f avx512_vnni\n", "", False),
    ("flags\t\t: fpu avx2\n", "", False),
    ("model name\t: avx512_bf16\n", "", False),
    ("flags\t\t: fpu avx512_bf16\n", "--xla_cpu_max_isa=AVX2", False),
    ("flags\t\t: fpu avx512_bf16\n", "--xla_cpu_max_isa=avx512_bf16", True),
    ("flags\t\t: fpu avx2\n", "--xla_cpu_max_isa=AMX", False),
  ],
)
def test_a_processor_multiplies_bfloat16_if_it_says_so(
  tmp_path, monkeypatch, text, flags, expected
):
  monkeypatch.setenv("XLA_FLAGS", flags)
  (tmp_path / "cpuinfo").write_text(text)
  assert precision.cpu_has_bfloat16(str(tmp_path / "cpuinfo")) is expected


def test_without_cpuinfo_a_cpu_has_float32_and_accelerators_bfloat16(monkeypatch):
  monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: False)
  assert precision.fastest("cpu") == "float32"
  assert precision.fastest("gpu") == precision.fastest("tpu") == "bfloat16"


@pytest.mark.parametrize("native", [True, False])
def test_auto_becomes_the_dtype_of_this_machine(monkeypatch, native):
  monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: native)
  values = mac.get_config("smoke")
  values.objective.compute.dtype = "auto"
  config = read(TrainConfig, values.to_dict())
  expected = "bfloat16" if native else "float32"
  assert config.make_objective().compute.dtype == expected


def test_a_plan_for_tpus_has_bfloat16_on_any_machine(monkeypatch):
  monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: False)
  config = read(TrainConfig, mac.get_config("webvid2m_cc3m").to_dict())
  target = chips.find("v5e:2x2", compiler=False)
  assert problem.make(config, target).parts.objective.compute.dtype == "bfloat16"


@pytest.mark.parametrize(
  ("stored", "expected"), [("float32", "float32"), ("auto", "bfloat16")]
)
def test_a_run_keeps_the_dtype_that_it_began_with(
  tmp_path, monkeypatch, stored, expected
):
  monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
  values = mac.get_config("smoke").to_dict()
  values["objective"]["compute"]["dtype"] = stored
  (tmp_path / "config.json").write_text(json.dumps(workdir.plain(values)))
  values["objective"]["compute"]["dtype"] = "auto"
  dtype = functools.partial(setup._dtype, tmp_path)
  found = objectives.with_dtype(values["objective"], dtype)
  assert found["compute"]["dtype"] == expected
  assert values["objective"]["compute"]["dtype"] == "auto"  # the argument is kept
