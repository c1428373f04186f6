"""The planner: parsing compiled programs, estimates, search and output."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import pytest
from conftest import eight_devices, run_main
from jax.experimental import topologies

from configs import mac, miles, simvtp
from vtr_jax.core.config import read
from vtr_jax.core.errors import ConfigError
from vtr_jax.plan import __main__ as command
from vtr_jax.plan import (
  chips,
  collectives,
  compiled,
  costs,
  estimate,
  gpus,
  hlo,
  kernels,
  problem,
)
from vtr_jax.plan.report import Plan, table
from vtr_jax.plan.traffic import traffic
from vtr_jax.train.config import TrainConfig

RECIPES = (
  (simvtp, "webvid2m"),
  (mac, "webvid2m_cc3m"),
  (miles, "webvid2m_cc3m"),
)
# As libtpu writes it: a loop of three over a stack, updated in place, and exchanges.
TEXT = """HloModule jit_step, is_scheduled=true

%fused_slice (p.0: f32[3,8,128], p.1: s32[]) -> f32[8,128] {
  %p.0 = f32[3,8,128]{2,1,0:T(8,128)} parameter(0)
  %p.1 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %part = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%p.0, %p.1, %zero, %zero)
  ROOT %flat = f32[8,128]{1,0:T(8,128)} bitcast(%part)
}

%fused_update (q.0: f32[3,8,128], q.1: f32[8,128], q.2: s32[]) -> f32[3,8,128] {
  %q.0 = f32[3,8,128]{2,1,0:T(8,128)} parameter(0)
  %q.1 = f32[8,128]{1,0:T(8,128)} parameter(1)
  %q.2 = s32[]{:T(128)} parameter(2)
  %none = s32[]{:T(128)} constant(0)
  %high = f32[1,8,128]{2,1,0:T(8,128)} bitcast(%q.1)
  ROOT %into = f32[3,8,128]{2,1,0} dynamic-update-slice(%q.0, %high, %q.2, %none, %none)
}

%body (c: (s32[], f32[3,8,128])) -> (s32[], f32[3,8,128]) {
  %c = (s32[]{:T(128)}, f32[3,8,128]{2,1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%c), index=0
  %stack = f32[3,8,128]{2,1,0:T(8,128)} get-tuple-element(%c), index=1
  %one = f32[8,128]{1,0:T(8,128)S(1)} fusion(%stack, %i), kind=kLoop, calls=%fused_slice
  %sum = f32[8,128]{1,0:T(8,128)S(1)} all-reduce(%one), channel_id=1, \
replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_1'}, to_apply=%add
  %new = f32[3,8,128]{2,1,0:T(8,128)} fusion(%stack, %sum, %i), kind=kLoop, \
calls=%fused_update
  ROOT %next = (s32[]{:T(128)}, f32[3,8,128]{2,1,0:T(8,128)}) tuple(%i, %new)
}

%condition (d: (s32[], f32[3,8,128])) -> pred[] {
  %d = (s32[]{:T(128)}, f32[3,8,128]{2,1,0:T(8,128)}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%d), index=0
  %three = s32[]{:T(128)} constant(3)
  ROOT %less = pred[]{:T(512)} compare(%j, %three), direction=LT
}

ENTRY %main (x: f32[3,8,128], y: bf16[16,128]) -> f32[3,8,128] {
  %x = f32[3,8,128]{2,1,0:T(8,128)} parameter(0)
  %y = bf16[16,128]{1,0:T(8,128)(2,1)} parameter(1)
  %start = s32[]{:T(128)} constant(0)
  %go = (s32[]{:T(128)}, /*index=1*/f32[3,8,128]{2,1,0:T(8,128)}) tuple(%start, %x)
  %loop = (s32[]{:T(128)}, f32[3,8,128]{2,1,0:T(8,128)}) while(%go), \
condition=%condition, body=%body, metadata={op_name="jit(step)/while"}
  %token = token[] after-all()
  %away = (f32[3,8,128]{2,1,0:T(8,128)}, u32[], token[]) send(%x, %token), \
channel_id=2, is_host_transfer=true, frontend_attributes={\
_xla_host_transfer_handler_name="xla_megascale_runtime",\
_xla_megascale_transfer_type="REDUCE_SCATTER"}
  %all = bf16[64,128]{1,0:T(8,128)(2,1)} all-gather(%y), dimensions={0}, \
replica_groups=[1,4]<=[4], use_global_device_ids=true
  ROOT %out = f32[3,8,128]{2,1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""
ROW = 8 * 128 * 4  # bytes of one of the stack's three


def config_of(module, variant="smoke", **changes):
  values = module.get_config(variant).to_dict() | changes
  return read(TrainConfig, values)


def test_a_loop_body_counts_once_per_iteration():
  module = hlo.parse(TEXT)
  counts = {i.name: times for _, i, times in hlo.executed(module)}
  assert counts["one"] == 3
  assert counts["all"] == 1
  gathered = 16 * 128 * 2 * 5
  # Each turn: read a row, write it; exchange it; read it, write it into the stack.
  turn = 2 * ROW + 2 * ROW + 2 * ROW
  index = 2 * 4 * 1  # the loop's counter, read by both fusions
  assert traffic(module, loops=False) == pytest.approx(turn + gathered + index, abs=8)
  assert traffic(module) == pytest.approx(3 * (turn + index) + gathered, abs=24)


def test_traffic_can_exclude_fast_memory():
  module = hlo.parse(TEXT)
  slow = traffic(module, fast=False)
  assert slow == pytest.approx(3 * 2 * ROW + 16 * 128 * 2 * 5, abs=32)


def test_collectives_are_counted_by_kind_and_network():
  module = hlo.parse(TEXT)
  # Devices 0 and 1 are one slice, 2 and 3 the other; the mesh's second axis is within.
  within, across = (
    collectives.Collective("all-reduce", "ici", 3, 3.0 * ROW),
    collectives.Collective("all-gather", "dcn", 1, 64.0 * 128 * 2),
  )
  # Transfers through the hosts are not a collective of a slice's program.
  away = collectives.Collective("reduce-scatter", "dcn", 1, 3.0 * ROW)
  assert set(collectives.collectives(module, [0, 0, 1, 1])) == {within, across, away}
  networks = {c.network for c in collectives.collectives(module, [0, 1, 0, 1])}
  assert networks == {"dcn"}


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("replica_groups={{0,2},{1,3}}", [[0, 2], [1, 3]]),
    ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
    ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2] {'b'}", [[0, 1], [2, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", [[0, 1, 2, 3]]),
    ("source_target_pairs={{0,1},{1,0}}, x", [[0, 1], [1, 0]]),
    ("replica_groups={}, x", [[0, 1, 2, 3]]),
  ],
)
def test_replica_groups_of_collectives_are_parsed(text, expected):
  assert collectives.groups(text, 4) == expected


def test_a_program_compiled_here_is_parsed():
  def loop(x):
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ x), None), x, length=5)[0]

  done = jax.jit(loop).lower(jax.ShapeDtypeStruct((64, 64), "float32")).compile()
  module = hlo.parse(done.as_text())
  loops = [i for _, i, _ in hlo.executed(module) if i.opcode == "while"]
  assert [hlo.trip_count(module, i) for i in loops] == [5]
  moved = compiled.moved(done.cost_analysis(), module)
  # At least the product of every iteration: two operands and the result.
  assert moved > 5 * 3 * 64 * 64 * 4
  assert compiled.moved({}, module) is None


@pytest.mark.parametrize(
  ("message", "expected"),
  [
    (
      "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for "
      "HLO temporaries (24.01G) exceeds available HBM (15.75G).",
      (24.01 * 2**30, 15.75 * 2**30),
    ),
    ("RESOURCE_EXHAUSTED: Used 512.5M of hbm", (512.5 * 2**20, None)),
  ],
)
def test_an_out_of_memory_message_gives_the_bytes_needed(message, expected):
  assert compiled.out_of_memory(message) == expected


def test_other_compiler_errors_are_raised():
  with pytest.raises(ConfigError, match="rejects this step: INTERNAL: no"):
    compiled.out_of_memory("INTERNAL: no\nsuch thing")


def synthetic_costs(per_row, held=1.0, limit=16.0):
  """(function from rows to costs, list of the rows that it was called with)."""
  asked = []

  def of(rows):
    asked.append(rows)
    peak = held + per_row * rows
    return costs.Costs("compiled", peak <= limit, dict(all=held), peak, limit, 1.0)

  return of, asked


@pytest.mark.parametrize(
  ("first", "best"), [(1, 8), (4, 8), (8, 8), (16, 8), (24, 8), (512, 8)]
)
def test_the_largest_batch_takes_few_compilations(first, best):
  of, asked = synthetic_costs(1.5)
  count, found = costs.largest(of, {first: of(first)})
  assert (count, found.fits) == (best, True)
  assert len(asked) <= 4


def test_a_correct_estimate_takes_one_more_compilation():
  of, asked = synthetic_costs(1.5)
  assert costs.largest(of, {4: of(4), 8: of(8)})[0] == 8
  assert asked == [4, 8, 16]


def test_if_nothing_fits_there_is_no_largest_batch():
  of, _ = synthetic_costs(1.5, held=15.0)
  assert costs.largest(of, {4: of(4)}) is None


def test_the_time_bound_is_that_of_the_slowest_resource():
  chip = chips.Chip("some", 16.0, bandwidth=10.0, peak=100.0)
  of = lambda flops, moved: costs.Costs("compiled", True, {}, 1, 16, flops, bytes=moved)
  assert of(500.0, 20.0).bound(chip) == (5.0, "compute")
  assert of(500.0, 80.0).bound(chip) == (8.0, "memory")
  assert of(500.0, None).bound(chip) == (5.0, "compute")
  assert of(500.0, 80.0).bound(chips.Chip("unknown", None, None, None)) is None


@pytest.mark.parametrize(
  ("name", "slices", "message"),
  [
    ("v9:2x2", 1, "known: v4"),
    ("v5:2x2", 1, "did you mean 'v5"),
    ("v5e", 1, "not a chip and layout; known: v4"),
    ("v5e:2x2x2", 1, "v5e has 2 axes, as v5e:4x4"),
    ("v4:2x2", 1, "v4 has 3 axes"),
    ("h100:2x4", 1, "h100 has 1 axis, as h100:8"),
    ("h100:0", 1, "h100 has 1 axis, as h100:8"),
    ("h20:8", 1, "did you mean 'h200'?"),
    ("v5e:2x2", 0, "--slices: 0"),
    ("local", 2, "--slices: 2"),
  ],
)
def test_unknown_chips_are_rejected(name, slices, message):
  with pytest.raises(ConfigError) as e:
    chips.find(name, slices, compiler=False)
  assert message in str(e.value)
  assert "\n" not in str(e.value)


def test_devices_and_chips_are_counted():
  target = chips.find("v5e:16x16", 2, compiler=False)
  assert (target.count, target.chips) == (512, 512)
  target = chips.find("7x:2x2x2", compiler=False)
  assert (target.count, target.chips) == (16, 8)
  assert target.chip.memory == 96 * chips.GIB


@pytest.mark.parametrize("name", ["v5e:2x2", "h200:8"])
def test_a_topology_that_the_compiler_rejects_is_one_line_with_a_cure(
  name, monkeypatch
):
  def reject(**_):
    raise RuntimeError("INTERNAL: no\nsuch thing")

  monkeypatch.setattr(topologies, "get_topology_desc", reject)
  monkeypatch.setattr(chips, "_compiles", lambda _: True)
  monkeypatch.setattr(gpus, "compiler_options", dict)
  with pytest.raises(ConfigError) as e:
    chips.find(name)
  message = str(e.value)
  assert f"rejects '{name}' (INTERNAL: no such thing); update it (pip" in message
  assert "--estimate" in message
  assert "\n" not in message


def test_half_a_compiler_for_gpus_is_one_line_with_a_cure(monkeypatch):
  plugin = lambda module: ["somewhere"] if "jax_plugins" in module else []
  monkeypatch.setattr(gpus, "_found", plugin)
  monkeypatch.setenv("PATH", "")
  with pytest.raises(ConfigError) as e:
    chips.find("h100:8")
  assert "ptxas" in str(e.value)
  assert gpus.INSTALL in str(e.value)
  assert "\n" not in str(e.value)
  assert chips.find("h100:8", compiler=False).count == 8


def test_gpus_are_estimated_without_a_compiler(monkeypatch):
  monkeypatch.setattr(gpus, "_found", lambda _: [])
  target = chips.find("h100:8", 2)
  assert (target.count, target.chips, target.devices) == (16, 16, None)
  plan = command.plan(config_of(mac, batch_size=32), target, search=False)
  n = plan.metrics()
  assert (n["how"], n["kernels"], n["hbm_gb"]) == ("arithmetic", None, None)
  assert n["bound_ms"] > 0
  assert gpus.INSTALL in plan.text()


@pytest.mark.parametrize(
  ("how", "topology", "needs"),
  [("cudnn", "v5e:2x2", "GPU"), ("pallas", "h100:8", "TPU")],
)
def test_attention_of_other_chips_is_not_planned(how, topology, needs):
  config = config_of(mac, batch_size=32)
  config.objective["compute"] |= dict(attention=how, dtype="bfloat16")
  with pytest.raises(ConfigError, match=f"attention: '{how}' needs a {needs}"):
    problem.make(config, chips.find(topology, compiler=False))


def test_an_unknown_attention_is_not_planned():
  config = config_of(mac, batch_size=32)
  config.objective["compute"] |= dict(attention="cuddn")
  with pytest.raises(ConfigError, match=r"attention: .*cuddn.*did you mean 'cudnn'"):
    problem.make(config, chips.find("h100:8", compiler=False))


def test_a_kernel_of_absent_chips_is_planned_as_auto():
  config = config_of(mac, batch_size=32)
  config.objective["compute"] |= dict(attention="cudnn", dtype="bfloat16")
  target = chips.find("h100:8", compiler=False)
  plan = command.plan(config, target, search=False)
  assert "attention=auto" in plan.text()


def test_cudnns_attention_is_traced_where_no_gpu_is():
  x = jax.ShapeDtypeStruct((2, 40, 2, 64), jnp.bfloat16)
  fused = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
  with gpus.cudnn():
    traced = str(jax.make_jaxpr(fused)(x, x, x))
  assert "attention" in traced
  assert "exp" not in traced


def test_every_gpu_has_a_peak_and_a_description():
  for name, gpu in gpus.GPUS.items():
    assert chips.GPUS[name].peak > 1e14
    text = gpu.describe()
    assert f'device_description_str: "{gpu.kind}"' in text
    assert text.count("{") == text.count("}")


def test_rows_say_what_they_are():
  target = chips.find("v5e:2x2", compiler=False)
  step = problem.make(config_of(mac, batch_size=32), target)
  held = dict(parameters=1e9)
  cycles = kernels.Cycles(3e6, 5)  # 2 ms
  done = costs.Costs(
    *("compiled", True, held, 2e9, 16e9, 0.197e12),
    **dict(bytes=3e9, hbm=1.638e9, cycles=cycles, kernels=7),
  )
  plan = Plan(step, target, done, None, None)
  n = plan.metrics()
  # 1 ms of products, 2 of main memory, by the peaks; 2 by the compiler.
  assert n["ms"] == pytest.approx(dict(compute=1.0, memory=2.0))
  assert (n["bound_ms"], n["by"]) == (pytest.approx(2.0), "memory")
  assert (n["hbm_gb"], n["moved_gb"]) == pytest.approx((1.638, 3.0))
  assert n["cycles_ms"] == pytest.approx(2.0, rel=0.01)
  assert n["peak_share"] == pytest.approx(0.5, rel=0.01)
  assert (n["cycles"], n["cycles_missing"], n["kernels"]) == (3e6, 5, 7)
  rows = {row[2:14].strip(): row for row in plan.text().splitlines()}
  assert rows["compute"].endswith("1.0 ms  lower bound, at the peak")
  assert rows["main memory"].endswith("2.0 ms  lower bound, at the bandwidth")
  assert "compiler's count" in rows["all memory"]
  label = "the compiler's estimate, 50% of peak; 5 custom calls without cycles"
  assert rows["cycles"].endswith(f"2.0 ms  {label}")
  assert "nothing here was measured" in plan.text()
  assert table([plan]).split()[-1] == "-"  # the largest batch


@pytest.mark.parametrize(
  ("module", "variant"),
  [
    r if r[0] is simvtp else pytest.param(*r, marks=pytest.mark.nightly)
    for r in RECIPES
  ],
)
def test_the_full_recipes_are_estimated_without_a_compiler(module, variant):
  config = config_of(module, variant, batch_size=1024)
  target = chips.find("v5e:16x16", compiler=False)
  plan = command.plan(config, target, price=2.0, search=module is mac)
  n = plan.metrics()
  assert n["how"] == "arithmetic"
  assert n["fits"]
  assert n["rows_a_device"] == 4
  count = n["parameters_gb"] / 4
  assert 0.1 < count < 0.2  # thousand millions of them
  assert n["optimiser_gb"] == pytest.approx(2 * n["parameters_gb"], rel=1e-6)
  assert bool(n["teacher_gb"]) == (module is miles)
  assert n["cost"] == pytest.approx(2 * n["chip_hours"])
  assert n["chip_hours"] == pytest.approx(
    n["steps"] * n["bound_ms"] / 3.6e6 * 256, rel=1e-6
  )
  assert n["largest"] == (64 if module is mac else None)
  assert "ESTIMATE" in plan.text()


def test_this_machine_can_be_estimated_too():
  here = chips.find("local", compiler=False)
  plan = command.plan(config_of(mac, batch_size=32), here, search=False)
  assert plan.metrics()["how"] == "arithmetic"


@pytest.mark.nightly
@pytest.mark.parametrize(("rows", "largest"), [(64, 16), (65, None)])
def test_the_largest_batch_is_found_if_the_given_one_does_not_fit(rows, largest):
  """The search never tries a single row; an odd batch, only multiples of it."""
  target = chips.find("v5e:1x1", compiler=False)

  def largest_in(memory):
    chip = dataclasses.replace(target.chip, memory=memory)
    config = config_of(mac, "demo", batch_size=rows)
    found = command.plan(config, dataclasses.replace(target, chip=chip)).metrics()
    assert not found["fits"]
    return found["largest"]

  assert largest_in(40e6) == largest
  assert largest_in(1e3) is None


@pytest.mark.parametrize(
  ("memory", "largest"),  # rows on each of 4 chips; 16 rows in all do not fit
  [(30e6, 8), pytest.param(20e6, None, marks=pytest.mark.nightly)],
)
def test_the_largest_batch_is_of_whole_groups(memory, largest):
  """SimVTP draws false pairs in groups of rows; no batch of 4 or 8 can be trained."""
  target = chips.find("v5e:2x2", compiler=False)
  config = config_of(simvtp, "demo", batch_size=64)
  config.objective["negatives_group"] = 16
  chip = dataclasses.replace(target.chip, memory=memory)
  found = command.plan(config, dataclasses.replace(target, chip=chip)).metrics()
  assert found["largest"] == largest
  wrong = dataclasses.replace(config, batch_size=24)
  with pytest.raises(ConfigError, match=r"whole groups of 16 .*use 16 or 32"):
    command.plan(wrong, target)


@pytest.mark.nightly
@pytest.mark.parametrize("module", [simvtp, mac, miles])
def test_the_estimate_of_memory_is_within_20_percent_of_the_compiler_s(module):
  """Without remat, which XLA's CPU compiler reverts."""
  config = config_of(module, "demo", batch_size=64)
  config.objective["compute"] |= dict(remat="none", dtype="float32")
  here = chips.find("local")
  target = dataclasses.replace(here, count=1, devices=here.devices[:1])
  one = problem.make(config, target)
  peak = compiled.costs(one, target).peak
  guess = estimate.costs(one, target).peak
  print(f"{guess / 1e6:.0f} MB of {peak / 1e6:.0f}")
  assert guess == pytest.approx(peak, rel=0.2)


def test_sharded_parameters_take_less_memory_per_device():
  whole = config_of(mac, batch_size=32)
  split = config_of(mac, batch_size=32, mesh=dict(data=-1, fsdp=4, tensor=1))
  target = chips.find("v5e:4x4", compiler=False)
  a, b = (command.plan(c, target, search=False).metrics() for c in (whole, split))
  assert b["parameters_gb"] < 0.5 * a["parameters_gb"]
  assert b["batch_gb"] == a["batch_gb"]


@pytest.mark.nightly
def test_a_higher_mask_ratio_costs_less():
  target = chips.find("v6e:2x2", compiler=False)
  config = config_of(mac, "webvid2m_cc3m", batch_size=64)
  plans = [
    command.plan(command.with_video_ratio(config, ratio), target, search=False)
    for ratio in (0.0, 0.6, 0.9)
  ]
  for key in ("tflop", "moved_gb", "peak_gb"):
    values = [p.metrics()[key] for p in plans]
    assert values == sorted(values, reverse=True)
  header, *rows = table(plans).splitlines()
  assert header.split()[:3] == ["masked", "visible", "fits"]
  assert [row.split()[:2] for row in rows] == [
    ["0%", "784"],
    ["60%", "316"],
    ["90%", "80"],
  ]


def test_microbatches_take_less_memory_and_more_flops():
  target = chips.find("v5e:2x2", compiler=False)
  one = command.plan(config_of(mac, batch_size=64), target, search=False).metrics()
  four = command.plan(
    config_of(mac, batch_size=64, micro_batches=4), target, search=False
  ).metrics()
  assert four["temporaries_gb"] < 0.5 * one["temporaries_gb"]
  assert four["tflop"] > 1.2 * one["tflop"]


def test_indivisible_batch_and_mesh_sizes_are_rejected():
  config, target = config_of(mac), chips.find("v5e:4x4", compiler=False)
  with pytest.raises(ConfigError, match="use 32 or 48"):
    problem.make(dataclasses.replace(config, batch_size=33), target)
  odd = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, fsdp=3))
  with pytest.raises(ConfigError, match="does not multiply to the 16 devices"):
    problem.make(odd, target)


@pytest.mark.nightly
def test_the_command_plans_for_eight_devices_of_this_machine(tmp_path):
  """End to end, with a real compiler."""
  path = tmp_path / "plan.json"
  run = run_main(
    "--config=configs/mac.py:smoke",
    "--config.mesh.fsdp=2",
    "--config.objective.compute.scan=True",
    "--masked=0,75",
    f"--json={path}",
    module="vtr_jax.plan",
    **eight_devices(),
  )
  assert run.returncode == 0, run.stderr
  first, second = json.loads(path.read_text())
  assert first["how"] == "compiled"
  assert first["devices"] == 8
  assert first["mesh"] == dict(data=4, fsdp=2, tensor=1)
  kinds = {c["kind"] for c in first["collectives"]}
  assert "all-reduce" in kinds
  assert {c["network"] for c in first["collectives"]} == {"ici"}
  assert first["moved_gb"] > second["moved_gb"] > 0
  assert first["tflop"] > second["tflop"] > 0
  assert first["bound_ms"] is None  # of a CPU no peak is known
  assert "no peak" in run.stdout


@pytest.mark.parametrize("ratios", [["x"], ["100"], ["-1"]])
def test_invalid_mask_ratios_are_rejected(ratios):
  with pytest.raises(ConfigError, match=f"--masked: {ratios[0]}"):
    command.percent(ratios)


def test_invalid_flags_are_rejected_with_one_line():
  run = run_main(
    "--config=configs/mac.py:smoke", "--topology=v9:2x2", module="vtr_jax.plan"
  )
  assert run.returncode == 2
  assert "known: v4" in run.stderr
  assert run.stderr.count("\n") == 1


def planned_on_two_slices(path, *args):
  """Metrics of MAC's smoke config by the command, compiled for two slices of four."""
  run = run_main(
    "--config=configs/mac.py:smoke",
    "--config.mesh.fsdp=2",
    "--slices=2",
    "--nosearch",
    f"--json={path}",
    *args,
    module="vtr_jax.plan",
  )
  assert run.returncode == 0, run.stderr
  (n,) = json.loads(path.read_text())
  assert (n["how"], n["fits"], n["devices"]) == ("compiled", True, 8)
  assert {c["network"] for c in n["collectives"]} == {"ici", "dcn"}
  return n


def test_the_command_compiles_for_a_tpu_that_is_not_here(tmp_path):
  if chips.compiler_version() is None:
    pytest.skip("libtpu is not installed: pip install 'jax[tpu]'")
  scanned = "--config.objective.compute.scan=True"
  n = planned_on_two_slices(tmp_path / "plan.json", "--topology=v5e:2x2", scanned)
  assert n["bound_ms"] > 0


@pytest.mark.nightly
def test_the_command_plans_for_absent_gpus(tmp_path):
  if not gpus.installed():
    pytest.skip(f"XLA's compiler for GPUs is not installed: {gpus.INSTALL}")
  n = planned_on_two_slices(tmp_path / "plan.json", "--topology=h100:4")
  assert n["kernels"] > 100
  assert n["hbm_gb"] == n["moved_gb"] > 0


@pytest.mark.nightly
def test_absent_gpus_are_planned_with_the_attention_that_they_run(tmp_path):
  """cuDNN's, whose scores stay in fast memory."""
  if not gpus.installed():
    pytest.skip(f"XLA's compiler for GPUs is not installed: {gpus.INSTALL}")
  moved = {}
  for how in ("auto", "cudnn", "xla"):
    options = "--topology=h200:1", "--batch_size=8", "--nosearch"
    run = run_main(
      *("--config=configs/mac.py:webvid2m_cc3m", *options),
      *(f"--config.objective.compute.attention={how}", f"--json={tmp_path / how}"),
      module="vtr_jax.plan",
    )
    assert run.returncode == 0, run.stderr
    moved[how] = json.loads((tmp_path / how).read_text())[0]["hbm_gb"]
  assert moved["auto"] == moved["cudnn"] < 0.7 * moved["xla"]
