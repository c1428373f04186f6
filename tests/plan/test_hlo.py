"""Programs that libtpu and XLA for GPUs wrote, cut to a few kilobytes, counted by hand.

Both are the gradient of six layers, gelu(x @ w), whose weights are sharded over four
devices; of the backward loop, what gathers the weights and scatters their gradients.
"""

import pathlib

import pytest

from vtr_jax.plan import chips, collectives, costs, hlo, kernels
from vtr_jax.plan.traffic import traffic

GOLDEN = pathlib.Path(__file__).parents[1] / "golden/plan"
LAYERS = 6


def golden(name):
  return hlo.parse((GOLDEN / f"{name}.hlo").read_text())


def test_an_exchange_in_flight_is_not_read_and_written_by_each_fusion_on_its_way():
  """v5e: one all-gather is begun, carried on and ended by three fusions."""
  shard = 256 * 1024 * 2  # bytes; a layer's weights are four
  turn = (
    2 * shard  # the layer's shard is cut out of the stack,
    + (1 + 4) * shard  # gathered,
    + 3 * 4 * shard  # alongside a product of two arrays,
    + (4 + 1) * shard  # whose sum over the devices is scattered
    + 2 * shard  # and put into a stack
  )
  # The input and the stack are fetched, and the result is subtracted from the stack.
  around = (2 * 4 + 2 * LAYERS + 3 * LAYERS) * shard
  module = golden("v5e")
  flags = 200 * LAYERS  # semaphores and counters
  assert traffic(module) == pytest.approx(LAYERS * turn + around, abs=flags)
  assert traffic(module, loops=False) == pytest.approx(turn + around, abs=flags)
  # All of the loop is in VMEM.
  main = (4 + LAYERS + LAYERS) * shard
  assert traffic(module, fast=False) == pytest.approx(main, abs=flags)


def test_exchanges_inside_fusions_are_found_and_counted_once():
  size = 1024 * 1024 * 2.0 * LAYERS
  assert collectives.collectives(golden("v5e"), [0] * 4) == [
    collectives.Collective("all-gather", "ici", LAYERS, size),
    collectives.Collective("reduce-scatter", "ici", LAYERS, size),
  ]


def test_the_compiler_s_cycles_are_added_up_with_loops():
  cycles = kernels.cycles(golden("v5e"))
  assert cycles == kernels.Cycles(LAYERS * (5206 + 21340 + 5206) + 53900, 0)
  chip = chips.TPUS["v5e"]
  assert chip.clock == pytest.approx(1.5e9, rel=0.01)
  step = costs.Costs("compiled", True, {}, 1, 1, flops=1.0, cycles=cycles)
  assert step.expected(chip) == pytest.approx(244412 / 1.5e9, rel=0.01)
  # An estimate is no lower bound.
  assert step.bound(chip) == (1 / 197e12, "compute")
  assert step.expected(chips.TPUS["7x"]) is None  # of unknown clock


def test_custom_calls_without_cycles_are_counted():
  text = (GOLDEN / "v5e.hlo").read_text()
  call = '%sub.17), custom_call_target="tpu_custom_call"\n'
  kernel = "  %kernel = s32[] custom-call(" + call
  line = "  %get-tuple-element.490 ="
  assert text.count(line) == 1
  module = hlo.parse(text.replace(line, kernel + line))
  assert kernels.cycles(module).missing == LAYERS
  assert kernels.cycles(golden("h200")) is None


def test_a_gpu_s_program_is_counted_without_the_libraries_workspaces():
  shard = 64 * 256 * 2  # bytes; a layer's weights are four, its activations 16
  turn = (
    2 * shard  # the layer's shard is cut out of the stack,
    + (1 + 4) * shard  # gathered;
    + 2 * 16 * shard  # its input is cut out of a stack
    + (16 + 16 + 4) * shard  # for the weights' gradient,
    + (4 + 1) * shard  # which is scattered
    + (16 + 4 + 16) * shard  # while the input's gradient is computed,
    + 2 * shard  # and put into a stack
  )
  # Six stacks and one of gradients are filled, the first gradient too; the result.
  around = (LAYERS * 6 * 16 + LAYERS + 16 + 3 * LAYERS) * shard
  module = golden("h200")
  assert traffic(module) == pytest.approx(LAYERS * turn + around, abs=1000)
  assert traffic(module, fast=False) == traffic(module)
  size = 256 * 256 * 2.0 * LAYERS
  assert collectives.collectives(module, [0] * 4) == [
    collectives.Collective("all-gather", "ici", LAYERS, size),
    collectives.Collective("reduce-scatter", "ici", LAYERS, size),
  ]
  # A turn: two copies of slices, two exchanges, two products, an update, the counter
  # and its copy; before and after it: three fills, the counter's copy, the difference.
  assert kernels.launches(module) == LAYERS * 9 + 5
