"""All commands in one: vtr-jax COMMAND [flags], as python -m vtr_jax.COMMAND.

vtr-jax COMMAND --help lists the flags of a command.
"""

import runpy
import sys

from vtr_jax.core.config import choose
from vtr_jax.core.errors import ConfigError

COMMANDS = dict(
  main="train a config, or resume its run; evaluate it",
  evaluate="metrics of a run, or of any model's embeddings, by a protocol",
  predict="classes, scores of texts, or embeddings of your videos",
  prepare="checked shards from videos or images and their annotations",
  search="index a folder of videos; search it by text, image or clip",
  convert="import public weights as a run",
  export="write a run's weights in a public layout",
  probe="train a classifier on a run's frozen features",
  moments="the part of a video that a sentence describes: find it, score it",
  replay="repeat the step that ended a run",
  study="many short trainings at equal compute, with verdicts",
  plan="memory, time and cost of a training on absent devices",
)


def main() -> None:
  """Runs a command in this process; the exit code is the command's."""
  name, *arguments = [*sys.argv[1:], ""]
  if name in ("", "--help", "-h", "help"):
    lines = [f"  {name:9} {text}" for name, text in COMMANDS.items()]
    print("\n".join([str(__doc__), *lines]))
    sys.exit(0 if name else 2)
  try:
    choose(name, COMMANDS, "command")
  except ConfigError as e:
    print(f"ConfigError: {e}", file=sys.stderr)
    sys.exit(e.exit_code)
  sys.argv[1:] = arguments[:-1]
  runpy.run_module(f"vtr_jax.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
  main()
