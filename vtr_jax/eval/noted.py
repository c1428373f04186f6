"""Scores of predictions against notes: their table, with what needs no video.

A result alone says little: always giving one window scores 30.65 on Charades-STA at IoU
0.5, and no model of 1,000 answers exceeds 91.08 on MSVD-QA. Every table therefore has
what needs no video, and the most that the rules allow.
"""

import dataclasses
from collections.abc import Sequence

from vtr_jax.data.notes import Note

Row = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Truth:
  """Notes of one kind, with the ids of their records."""

  notes: list[Note]  # of the protocol's split
  records: list[str]
  training: list[Note]  # of train; empty if there are none
  # (split, number) of the records; empty unless the notes are of prepared data
  places: list[tuple[str, int]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Scores:
  """What was measured.

  rows: metrics of the predictions, of what needs no video, and of the ceiling. tables:
  metrics that are printed, by table. sizes: number of queries behind a metric, where it
  is not all. remarks: a line each of what was left out or changed.
  """

  rows: dict[str, Row]
  tables: list[list[str]]
  sizes: dict[str, int]
  remarks: list[str]

  def results(self) -> Row:
    """Metrics of the predictions by name, and of the others as "blind/accuracy"."""
    (_, own), *others = self.rows.items()
    named = ((f"{name}/{key}", x) for name, row in others for key, x in row.items())
    return own | dict(named)

  def report(self) -> list[str]:
    """Readable lines: the tables, and the remarks."""
    lines = []
    for keys in filter(None, self.tables):
      sizes = {key: n for key, n in self.sizes.items() if key in keys}
      rows = {name: row for name, row in self.rows.items() if set(keys) & set(row)}
      lines += table(rows, keys, sizes)
    return lines + [f"  {remark}" for remark in self.remarks]


def table(
  rows: dict[str, Row], keys: Sequence[str], sizes: dict[str, int]
) -> list[str]:
  """Lines of a table: a column for each key, a line for each row."""
  heads = [key.removeprefix("accuracy/").removeprefix("highlights/") for key in keys]
  lines = [["", *heads]]
  if sizes:
    lines.append(["queries", *(f"{sizes[k]:,}" if k in sizes else "" for k in keys)])
  for name, row in rows.items():
    lines.append([name, *(f"{row[key]:.2f}" if key in row else "" for key in keys)])
  width = max(max(len(cell) for line in lines for cell in line[1:]) + 2, 8)
  padded = lambda name, cells: f"  {name:16}" + "".join(f"{c:>{width}}" for c in cells)
  return [padded(name, cells).rstrip() for name, *cells in lines]
