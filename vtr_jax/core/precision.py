"""The dtype of activations that a machine multiplies fast."""

import functools
import os
import re

import jax

from vtr_jax.core import processor

DTYPES = ("auto", "float32", "bfloat16")
# Instructions that multiply bfloat16, by their names in /proc/cpuinfo: x86 and ARM.
_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
# Values of XLA's --xla_cpu_max_isa that include one of them.
_ISAS = {"AVX512_BF16", "AMX", "AMX_FP16"}


def fastest(platform: str | None = None) -> str:
  """What "auto" means: bfloat16, but float32 on a CPU that has to convert it.

  Args:
    platform: of the devices, as JAX names it; None = the default back end's.
  """
  platform = platform or jax.default_backend()
  on_cpu = platform == "cpu"
  return "float32" if on_cpu and not cpu_has_bfloat16() else "bfloat16"


@functools.cache
def cpu_has_bfloat16(cpuinfo: str = "/proc/cpuinfo") -> bool:
  """Whether the processor multiplies bfloat16; False where that is not known."""
  limit = re.findall(r"--xla_cpu_max_isa=(\w+)", os.environ.get("XLA_FLAGS", ""))
  if limit and limit[-1].upper() not in _ISAS:
    return False
  return not _FLAGS.isdisjoint(processor.features(cpuinfo))
