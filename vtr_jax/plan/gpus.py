"""NVIDIA's GPUs, described so that XLA compiles for them where none is attached."""

import contextlib
import dataclasses
import importlib.util
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any
from unittest import mock

from vtr_jax.core.errors import ConfigError

# XLA's compiler for GPUs, of the version that fits jax, and NVIDIA's assembler.
INSTALL = "pip install 'jax[cuda12-local]' nvidia-cuda-nvcc-cu12"

_CUDNN = 9, 10  # from 9.8 on, jax's fused attention is the same


@dataclasses.dataclass(frozen=True)
class Gpu:
  """Figures of one GPU, as XLA describes it (openxla/xla, gpu/target_config/specs)."""

  kind: str  # `device_kind`
  capability: tuple[int, int]  # compute capability
  cores: int  # streaming multiprocessors
  clock: float  # GHz
  memory: int  # bytes
  bandwidth: int  # bytes/s
  cache: int  # bytes, L2
  shared: int  # bytes of shared memory of a core
  units: int = 128  # float32 units of a core
  threads: int = 2048  # of a core, at most

  def describe(self) -> str:
    """The description as XLA's GpuTargetConfigProto, in text."""
    major, minor = self.capability
    # Since 9.0, instructions of one architecture alone are used: sm_90a.
    extension = "ACCELERATED_FEATURES" if major >= 9 else "NONE"
    return f"""gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {self.shared}
  shared_memory_per_block_optin: {self.shared - 1024}
  threads_per_core_limit: {self.threads}
  core_count: {self.cores}
  fpus_per_core: {self.units}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {self.bandwidth}
  l2_cache_size: {self.cache}
  clock_rate_ghz: {self.clock}
  device_memory_size: {self.memory}
  cuda_compute_capability {{
    major: {major} minor: {minor} feature_extension: {extension}
  }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: {_CUDNN[0]} minor: {_CUDNN[1]} }}
runtime_version {{ major: 12 minor: 9 }}
device_description_str: "{self.kind}"
"""


# From the same files; their memory is what a driver reports, below the data sheet's.
_AMPERE = dict(cache=41943040, shared=167936, units=64)
_HOPPER = dict(cache=52428800, shared=233472)
_BLACKWELL = dict(shared=233472)
GPUS = {
  "a100": Gpu(
    "NVIDIA A100-SXM4-80GB", (8, 0), 108, 1.41, 85100068864, 2039040000000, **_AMPERE
  ),
  "a100_40": Gpu(
    "NVIDIA A100-SXM4-40GB", (8, 0), 108, 1.41, 42331013120, 1555200000000, **_AMPERE
  ),
  "a6000": Gpu(
    *("NVIDIA RTX A6000", (8, 6), 84, 1.8, 51041271808, 768096000000),
    **dict(cache=6291456, shared=102400, threads=1536),
  ),
  "h100": Gpu(
    "NVIDIA H100 80GB HBM3", (9, 0), 132, 1.98, 84942979072, 3352320000000, **_HOPPER
  ),
  "h100_pcie": Gpu(
    "NVIDIA H100 PCIe", (9, 0), 114, 1.755, 84942979072, 2039040000000, **_HOPPER
  ),
  "h200": Gpu("NVIDIA H200", (9, 0), 132, 1.98, 151397597184, 4800000000000, **_HOPPER),
  "b200": Gpu(
    *("NVIDIA B200", (10, 0), 148, 1.965, 191514411008, 7672320000000, 132644864),
    **_BLACKWELL,
  ),
  "gb200": Gpu(
    *("NVIDIA GB200", (10, 0), 152, 2.062, 197897748480, 7928064000000, 135528448),
    **_BLACKWELL,
  ),
  "b300": Gpu(
    *("NVIDIA B300", (10, 3), 158, 1.965, 297021865984, 7936000000000, 135528448),
    **_BLACKWELL,
  ),
}


def installed() -> bool:
  """Whether XLA's compiler for NVIDIA's GPUs is."""
  return any(_found(f"jax_plugins.xla_cuda{n}") for n in (12, 13))


def compiler_options() -> dict[str, Any]:
  """Options without which XLA asks for an attached GPU.

  Raises:
    ConfigError: NVIDIA's assembler, ptxas, is not installed.
  """
  for package in ("nvidia.cuda_nvcc", "nvidia.cu13"):
    for folder in _found(package):
      if (pathlib.Path(folder) / "bin/ptxas").exists():
        return _options(pathlib.Path(folder))
  if path := shutil.which("ptxas"):
    return _options(pathlib.Path(path).resolve().parents[1])
  raise ConfigError(
    f"--topology: ptxas, NVIDIA's assembler, is missing; {INSTALL}, or add --estimate"
  )


@contextlib.contextmanager
def cudnn() -> Iterator[None]:
  """Lets steps be traced with cuDNN's attention where neither cuDNN nor a GPU is.

  jax reads the installed version while it traces; the compiler takes the one that
  `Gpu.describe` states.
  """
  from jax._src.cudnn import fused_attention_stablehlo as fused

  major, minor = _CUDNN
  version = 10_000 * major + 100 * minor
  with mock.patch.object(fused, "check_cudnn_version", return_value=version):
    yield


def _options(cuda: pathlib.Path) -> dict[str, Any]:
  return dict(
    xla_gpu_cuda_data_dir=str(cuda),
    # Products that Triton writes are tuned by measuring, as are the libraries'.
    xla_gpu_autotune_level=0,
    xla_gpu_enable_triton_gemm=False,
  )


def _found(module: str) -> list[str]:
  """Folders of a package; none if it is not installed."""
  try:
    spec = importlib.util.find_spec(module)
  except ModuleNotFoundError:  # nor is the package around it
    return []
  return list(spec.submodule_search_locations or []) if spec else []
