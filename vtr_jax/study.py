"""Many short trainings at equal compute: python -m vtr_jax.study --config=study.

Every row of every table is trained at every budget with every seed; finished runs are
skipped, an interrupted one resumes. Processes or hosts share the rows with --shard=i/n.
Tables name config files next to the study's own. Written into --workdir: the runs,
results.json, times.json, study.md and a figure for each table.
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from vtr_jax.core import cli, config_help
from vtr_jax.core.config import read
from vtr_jax.train.study import report, rows
from vtr_jax.train.study.config import StudyConfig

_SHARD = flags.DEFINE_string(
  "shard", "0/1", "i/n: train every n-th row from the i-th; others by other processes."
)
_ONLY = flags.DEFINE_list(
  "only",
  [],
  "Train only rows whose TABLE / ROW contains one of these texts; all if empty.",
)
_NAMED = 3  # rows in a line


def main(config: dict, directory: str) -> None:
  file = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"]))
  study, path = read(StudyConfig, config), pathlib.Path(directory)
  rows.run(study, file.parent, path, rows.parse_shard(_SHARD.value), _ONLY.value)
  left = report.missing(study, report.write(study, path))
  print(f"{path / 'study.md'} and its figures are written", flush=True)
  if left:
    names = "; ".join([*left][:_NAMED])
    more = f" and {len(left) - _NAMED} more rows" if len(left) > _NAMED else ""
    runs = sum(left.values())
    print(f"{runs} runs are missing, left to others: {names}{more}", flush=True)


if __name__ == "__main__":
  notes = config_help.field_comments(StudyConfig)
  here = frozenset({"workdir"})
  cli.start(main, "study", "", comments=lambda _: notes, here=here)
