"""What this machine's processor can do."""

import pathlib
import re


def features(cpuinfo: str = "/proc/cpuinfo") -> frozenset[str]:
  """Names of its instruction sets, as Linux lists them; none where it does not."""
  try:
    text = pathlib.Path(cpuinfo).read_text()
  except OSError:
    return frozenset()
  lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
  return frozenset(lines[0].split()) if lines else frozenset()
