"""Each paper's claims, checked in short training runs on the embedded data.

  python -m vtr_jax.study --config=configs/study.py         tables in runs/study-full
  python -m vtr_jax.study --config=configs/study.py:smoke   a minute, for tests

All rows of a table see the same clips in the same order.
"""

from ml_collections import ConfigDict

from vtr_jax.configs import common
from vtr_jax.eval.evaluators import base as evaluators


def get_config(variant: str = "full") -> ConfigDict:
  variant = common.variant(variant, ("full", "smoke"))
  short = dict(optim=dict(warmup_steps=20), batch_size=64, checkpoint_every=10000)
  mac, simvtp, miles = (short | dict(steps=n) for n in (400, 300, 300))
  simvtp |= dict(mask=dict(video_ratio=0.5))
  tables = [
    table("MAC: masked video", "mac:demo", mac, *masked()),
    table("SimVTP: loss terms", "simvtp:demo", simvtp, *terms()),
    table("MILES: the snapshot", "miles:demo", miles, *snapshots()),
    table("SimVTP: masked text", "simvtp:demo", simvtp, *words()),
    table("SimVTP: masked video", "simvtp:demo", simvtp, *tubes()),
    table("MAC: masked text", "mac:demo", mac, *mac_words()),
  ]
  seeds = (0, 1)
  evals = evaluators.with_defaults(dict(test=common.retrieval("test")))
  if variant == "smoke":
    # Two rows of three steps each show that all of it works.
    tiny = lambda t: t["config"].replace("demo", "smoke")
    tables = [
      table(t["title"], tiny(t), dict(steps=3), *t["rows"][:2])
      for t in (tables[0], tables[2])
    ]
    seeds = (0,)
  return ConfigDict(
    dict(
      name=f"study-{variant}",
      data_dir="data",  # of all prepared data sets
      seeds=seeds,  # of parameters, order, masks
      evals=evals,
      shown="test",
      tables=tuple(tables),
    )
  )


def table(title: str, config: str, changes: dict, *rows: dict) -> dict:
  return dict(title=title, config=config, changes=changes, rows=rows)


def row(name: str, **changes) -> dict:
  return dict(name=name, changes=changes)


def masked() -> list[dict]:
  """MAC's claim: 60 % less computation, 3 times faster, no loss of accuracy."""
  longer = {60: 1.9, 90: 3.8}  # times the steps, for equal FLOPs
  ratio = lambda percent: dict(mask=dict(video_ratio=percent / 100))
  return [
    *(row(f"{percent} % masked", **ratio(percent)) for percent in (0, 40, 60, 75, 90)),
    *(
      row(
        f"{percent} % masked, {more} times the steps",
        **ratio(percent),
        steps=int(400 * more),
      )
      for percent, more in longer.items()
    ),
  ]


def mac_words() -> list[dict]:
  """MAC masks text too."""
  return [
    row(f"{percent} % of tokens", mask=dict(text_ratio=percent / 100))
    for percent in (0, 15)
  ]


def words() -> list[dict]:
  """SimVTP's claim: 75 % of the tokens masked are better than 15 %."""
  return [
    row(f"{percent} % of tokens", mask=dict(text_ratio=percent / 100))
    for percent in (15, 50, 75)
  ]


def tubes() -> list[dict]:
  """SimVTP masks 90 % of the tubes."""
  return [
    row(f"{percent} % of tubes", mask=dict(video="tube", video_ratio=percent / 100))
    for percent in (50, 75, 90)
  ]


def terms() -> list[dict]:
  """SimVTP's claim: contrast and matching help."""
  both = dict(pixels=1.0, mlm=1.0)
  return [
    row("reconstruction alone", loss_weights=both | dict(vtc=0.0, vtm=0.0)),
    row("+ contrast", loss_weights=both | dict(vtc=1.0, vtm=0.0)),
    row("+ contrast + matching", loss_weights=both | dict(vtc=1.0, vtm=1.0)),
    row("contrast alone", loss_weights=dict(pixels=0.0, mlm=0.0, vtc=1.0, vtm=0.0)),
  ]


def snapshots() -> list[dict]:
  """MILES' claim: predicting the snapshot's features helps its own dual encoder."""
  block = dict(video_ratio=0.4)  # BEiT's, as in the recipe
  copied = dict(update="copy", update_every=50)
  return [
    row("without features", mask=block, loss_weights=dict(vtc=1.0, features=0.0)),
    row("moving average", mask=block, loss_weights=dict(vtc=1.0, features=1.0)),
    row("copied every 50 steps", mask=block, objective=dict(teacher=copied)),
    row("nothing masked", mask=dict(video_ratio=0.0), loss_weights=dict(features=0.0)),
  ]
