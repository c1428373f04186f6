"""One run of `prepare`: all shards, or those of one job, or the merge."""

import contextlib
import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from vtr_jax.core import processes
from vtr_jax.core.config import require
from vtr_jax.core.errors import DataBudgetError, DataError, printable
from vtr_jax.core.paths import near
from vtr_jax.core.progress import Bar
from vtr_jax.core.shutdown import print_line, warn
from vtr_jax.data import captions as captions_lib
from vtr_jax.prepare import cluster, merge, notes, pool, spool
from vtr_jax.prepare.formats import base
from vtr_jax.prepare.options import Options, captions, unfit
from vtr_jax.prepare.place import Place
from vtr_jax.prepare.shards import Shard, cut, finish, report

_LISTED = 10  # ours: unfit items that are listed before any work


@dataclasses.dataclass(frozen=True)
class Run:
  """How the work is distributed; does not change the result.

  workers: processes; 0 is one per core. deadline: max seconds for one item. job, jobs:
  this run makes the shards with number % jobs == job. runner: local, or ray: each shard
  by `workers` processes (0 is one) wherever the cluster has room.
  """

  workers: int = 0
  deadline: float = 600.0  # ours: an hour of video takes a few minutes
  job: int = 0
  jobs: int = 1
  runner: str = "local"

  def __post_init__(self):
    require(self.workers >= 0, f"workers: {self.workers}; must be 0 or more")
    require(self.deadline > 0, f"deadline: {self.deadline}; must be positive")
    mine = 0 <= self.job < self.jobs
    require(mine, f"shard: {self.job}/{self.jobs}; must be i/n with 0 <= i < n")
    known = self.runner in ("local", "ray")
    require(known, f"runner: {self.runner!r} is unknown; known: local, ray")
    alone = self.runner == "local" or self.jobs == 1
    require(alone, f"runner: {self.runner} makes the shards of all jobs; omit --shard")


def prepare(
  place: Place,
  items: Sequence[base.Item],
  origin: dict[str, Any],
  options: Options,
  run: Run,
  final: merge.Final,
  *,
  shard_size: int,
  seed: int,
) -> None:
  """Makes the data set at `place`, or one job's shards of it; resumes a killed run.

  Args:
    place: directory of the data set.
    items: of all splits, with ids that occur once.
    origin: description of the source for the manifest.
    options: how items are checked and encoded.
    run: processes and jobs.
    final: options of the merge; ignored by one job of several.
    shard_size: items per shard.
    seed: of the order of the training split.

  Raises:
    DataError: an earlier run used other items or options, or the directory holds
      something else.
    DataBudgetError: more items are refused than `final` allows; the work is kept.
    DistributedError: the runner's cluster cannot be reached, or its workers die.
  """
  shards = cut(list(items), shard_size, seed)
  plan = _plan(place, items, origin, options, shards, shard_size, seed)
  with place.held(alone=False):
    if place.complete():
      # One job of several ignores `final`.
      place.confirm(plan | final.settings() if run.jobs == 1 else plan)
      notes.confirm(place.directory, items, origin)
      return
    place.start(plan)
    mine = [s for s in shards if s.number % run.jobs == run.job]
    if run.jobs == 1:
      _survey(items, options, final)
    if run.runner == "local":
      _make(place, mine, options, run)
    else:
      there = dataclasses.replace(run, workers=run.workers or 1, runner="local")
      work = functools.partial(_make, place, options=options, run=there)
      cluster.make(place, mine, work, there.workers)
  if run.jobs == 1:
    merge.merge(place, final)


def _plan(place, items, origin, options, shards, shard_size, seed) -> dict[str, Any]:
  """The settings that must be equal in all runs that make one data set."""
  counts: dict[str, int] = {}
  for shard in shards:
    counts[shard.split] = counts.get(shard.split, 0) + 1
  noted = [(item.id, item.notes) for item in items if item.notes]
  return dict(
    name=place.name,
    origin=origin,
    options=dataclasses.asdict(options),
    shard_size=shard_size,
    seed=seed,
    shards=counts,
    items=len(items),
    annotations=_sha256(map(_without_notes, items)),
    **(dict(notes_sha256=_sha256(map(repr, noted))) if noted else {}),
  )


def _sha256(texts: Iterable[str]) -> str:
  return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _without_notes(item: base.Item) -> str:
  """As `repr` of an item was before it had notes: earlier manifests hold its hash."""
  return repr(item._replace(notes=())).removesuffix(", notes=())") + ")"


def _survey(items: Sequence[base.Item], options: Options, final: merge.Final) -> None:
  """Raises early if too many files are missing, or for an invalid tokenizer."""
  if final.tokenizer:
    from vtr_jax.data.tokenizers.base import load  # imports JAX, which takes a second

    rows = [(item.id, text) for item in items for text in captions(item)]
    found = [*captions_lib.empty(load(final.tokenizer), [text for _, text in rows])]
    if found:
      told = captions_lib.told(found, len(rows), lambda i: rows[i][0])
      warn(f"--tokenizer: {told}")
  exists: dict[str, bool] = {}
  bad, listed = 0, []
  for item in items:
    path = item.media.path
    if path not in exists:
      exists[path] = os.path.isfile(path)
    reason = unfit(item, options) or ("" if exists[path] else "no such file")
    bad += bool(reason)
    if reason and len(listed) < _LISTED:
      hint = "" if exists[path] else near(path)
      listed.append(f"{item.id} ({path}): {reason}{hint}")
  if bad > final.bad_budget * len(items):
    for line in listed[1:]:
      print_line(f"unfit: {printable(line)}")
    raise DataBudgetError(
      f"{bad} of {len(items)} items are unfit, the first is {listed[0]}; fix it or "
      f"raise --bad_budget={final.bad_budget:g}"
    )


def _make(place: Place, shards: list[Shard], options: Options, run: Run) -> None:
  """Makes the missing shards; locks each of them against other runs."""
  left = {shard.number: len(shard.items) for shard in shards}
  by_number = {shard.number: shard for shard in shards}
  locks = {shard.number: contextlib.ExitStack() for shard in shards}
  workers = run.workers or processes.cores()
  with Bar(
    total=sum(left.values()), unit="item", desc=place.name, mininterval=1
  ) as bar:
    tasks = _tasks(place, shards, left, locks, bar)
    for task in pool.run(tasks, options, workers, run.deadline):
      left[task.shard] -= 1
      bar.update()
      if not left[task.shard]:
        finish(by_number[task.shard], place.work)
        locks[task.shard].close()


def _tasks(
  place: Place,
  shards: list[Shard],
  left: dict[int, int],
  locks: dict[int, contextlib.ExitStack],
  bar: Bar,
) -> Iterator[pool.Task]:
  """Items without a result; subtracts the others from `left`."""
  for shard in shards:
    missing = []
    if report(place.work, shard.name) is None:
      locks[shard.number].enter_context(
        processes.locked(place.work / f"{shard.name}.lock", "run")
      )
      missing = _missing(place, shard)
    left[shard.number] = len(missing)
    if not missing:
      locks[shard.number].close()
    # Excludes the items of an earlier run from the estimate of the rate.
    bar.initial += len(shard.items) - len(missing)
    bar.update(len(shard.items) - len(missing))
    for i in missing:
      yield pool.Task(shard.number, shard.result(place.work, i), shard.items[i])


def _missing(place: Place, shard: Shard) -> list[int]:
  """Positions of the items without a result; a shard with all of them is finished."""
  if report(place.work, shard.name) is not None:  # by the run that was waited for
    return []
  paths = [shard.result(place.work, i) for i in range(len(shard.items))]
  paths[0].parent.mkdir(exist_ok=True)
  missing = [i for i, path in enumerate(paths) if spool.read(path) is None]
  if not missing:
    finish(shard, place.work)
  return missing


def parse_job(text: str) -> tuple[int, int]:
  """`2/8` -> (2, 8).

  Raises:
    DataError: the text has another form.
  """
  job, slash, jobs = text.partition("/")
  if not (slash and job.isdecimal() and jobs.isdecimal() and len(text) < 20):
    raise DataError(f"--shard={text!r}: must be i/n, such as 0/8")
  return int(job), int(jobs)
