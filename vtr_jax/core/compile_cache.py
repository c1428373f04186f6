"""Programs that XLA compiled are kept between runs: a second start takes seconds."""

import hashlib
import importlib.util
import os
import pathlib
import sys

_MAX_BYTES = 2 << 30  # the least recently used are deleted; a demo takes 40 MB; ours


def enable() -> None:
  """Keeps compiled programs in the user's cache directory, unless JAX has another one.

  JAX_COMPILATION_CACHE_DIR names another one; empty = none.
  """
  if "JAX_COMPILATION_CACHE_DIR" in os.environ:
    return
  base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  path = pathlib.Path(base) / "vtr_jax" / f"xla-{_processor()}"
  try:
    path.mkdir(parents=True, exist_ok=True)
    writable = os.access(path, os.W_OK)
  except OSError:
    writable = False
  if not writable:
    return
  options: dict[str, str | int] = dict(jax_compilation_cache_dir=str(path))
  if importlib.util.find_spec("filelock"):  # JAX needs it to delete programs
    options["jax_compilation_cache_max_size"] = _MAX_BYTES
  for name, value in options.items():
    os.environ[name.upper()] = str(value)
    if "jax" in sys.modules:  # it has read the environment already
      importlib.import_module("jax").config.update(name, value)


def _processor() -> str:
  """Differs between processors whose programs could not run on each other."""
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    lines = []
  features = next((x for x in lines if x.startswith(("flags", "Features"))), "")
  return hashlib.sha256(features.encode()).hexdigest()[:8]
