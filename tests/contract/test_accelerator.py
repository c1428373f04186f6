"""The benchmark of one accelerator: what it chooses; a tiny run on a CPU."""

import pytest
from conftest import run_main

from benchmarks.accelerator import Way, best, row

CHOICES = [("xla", "none"), ("xla", "dots")]


def machine(memory, overhead=4.0):
  """A simulated step time; remat takes a third of the memory and a third more time."""
  asked = []

  def measure(way):
    asked.append(way)
    again = way.remat == "dots"
    if way.rows / (3 if again else 1) > memory:
      return None
    return (overhead + way.rows) * (4 / 3 if again else 1)

  return measure, asked


def test_the_batch_grows_while_throughput_grows():
  measure, _ = machine(memory=1e9)
  way, _ = best(measure, CHOICES, 8, 4096, lambda: 1.0)
  # From 256 to 512 clips/s grow by less than 2 %.
  assert way == Way("xla", "none", 256)


def test_remat_is_used_beyond_the_memory_if_it_is_faster():
  measure, _ = machine(memory=16, overhead=100.0)
  way, seconds = best(measure, CHOICES, 8, 4096, lambda: 1.0)
  assert way == Way("xla", "dots", 32)
  assert seconds == pytest.approx(132 * 4 / 3)


def test_a_first_batch_that_is_too_large_is_halved():
  measure, _ = machine(memory=2)
  assert best(measure, [("xla", "none")], 64, 64, lambda: 1.0)[0].rows == 2
  measure, _ = machine(memory=0)
  assert best(measure, CHOICES, 64, 64, lambda: 1.0) is None


def test_without_time_left_the_first_measurement_is_kept():
  measure, asked = machine(memory=1e9)
  assert best(measure, CHOICES, 8, 4096, lambda: 0.0)[0] == Way("xla", "none", 8)
  assert len(asked) == 1


def test_a_table_row_has_speed_utilisation_and_ratios():
  found = Way("cudnn", "none", 64), 0.5, 1e12
  cells = " ".join(row("mac", found, 1.0, (4e12, 2.5e12)).split())
  assert cells == "mac cudnn none 64 500.0 128.0 1.000 50.0 80.0 1000.0 2.00"
  assert row("mac", found, None, (None, 2.5e12)).split()[-3:] == ["-", "80.0", "-"]


@pytest.mark.nightly
def test_the_benchmark_runs_on_a_cpu():
  run = run_main(
    "--tiny",
    "--recipes=mac",
    "--most=4",
    "--minutes=0.01",
    module="benchmarks.accelerator",
    JAX_PLATFORMS="cpu",
  )
  assert run.returncode == 0, run.stderr
  first, header, line = run.stdout.splitlines()
  assert "measured" in first
  assert header.startswith("recipe")
  assert line.startswith("mac ")
