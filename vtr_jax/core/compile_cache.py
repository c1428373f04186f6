"""Programs that XLA compiled are kept between runs: a second start takes seconds."""

import hashlib
import importlib.util
import os
import pathlib
import sys

from vtr_jax.core import processor

_MAX_BYTES = 2 << 30  # the least recently used are deleted; a demo takes 40 MB; ours


def enable() -> None:
  """Keeps compiled programs in the user's cache directory, unless JAX has another one.

  JAX_COMPILATION_CACHE_DIR names another one; empty = none.
  """
  if "JAX_COMPILATION_CACHE_DIR" in os.environ:
    return
  base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  # Programs for one processor may not run on another that shares the directory.
  names = " ".join(sorted(processor.features()))
  key = hashlib.sha256(names.encode()).hexdigest()[:8]
  path = pathlib.Path(base) / "vtr_jax" / f"xla-{key}"
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
