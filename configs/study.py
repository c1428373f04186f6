"""The papers' claims, checked in short trainings at equal compute.

  python -m vtr_jax.study --config=configs/study.py           every claim, in
                                                              runs/study-claims
  python -m vtr_jax.study --config=configs/study.py:shapes    the same on other data
  python -m vtr_jax.study --config=configs/study.py:quick     22 minutes, two slow cores
  python -m vtr_jax.study --config=configs/study.py:gpu       12 minutes on a large GPU
  python -m vtr_jax.study --config=configs/study.py:smoke     a minute, for tests

Add --shard=0/2 and --shard=1/2 to two processes. All values are ours, but for ratios
and terms, which are the papers'. All rows of a table see the same clips in the same
order.
"""

from ml_collections import ConfigDict

from vtr_jax.configs import common
from vtr_jax.eval.evaluators import base as evaluators

# A regime in which masks can pay: 400 tubelets a clip, of which a thing covers dozens.
FINE = dict(
  clip=dict(image_size=80, tubelet_size=(2, 8, 8)),
  # Compute buys steps: at these budgets an unmasked row has few, and with larger
  # batches it would be starved of them.
  batch_size=32,
)
TINY = dict(width=128, depth=2, mlp_dim=256, num_heads=2)
# SimVTP without reconstruction and matching.
CONTRAST = dict(loss_weights=dict(pixels=0.0, mlm=0.0, vtc=1.0, vtm=0.0))


def get_config(variant: str = "claims") -> ConfigDict:
  made = dict(claims=claims, shapes=shapes, quick=quick, gpu=gpu, smoke=smoke)
  study = made[common.variant(variant, tuple(made))]()
  study |= dict(name=f"study-{variant}", data_dir="data", unit="tflop")
  for key in ("evals", "trial_evals"):
    study[key] = evaluators.with_defaults(study[key])
  return ConfigDict(study)


def claims() -> dict:
  """All tables, on moving_scenes."""
  scenes = {k: common.SCENES[k] for k in ("text", "data")}
  return everything(FINE | scenes) | dict(budgets=(5.0, 10.0, 20.0, 40.0))


def shapes() -> dict:
  """All tables, on moving_shapes, whose grey backgrounds are easier."""
  return everything(FINE) | dict(budgets=(20.0, 40.0, 80.0, 160.0))


def everything(changes: dict) -> dict:
  """Every table and claim, with these changes for every row."""
  mac = dual(changes)
  joint = joined(changes)
  # MILES keeps masked tubelets as tokens: of fine ones a budget buys too few steps.
  # Larger blocks hide whole shapes of the demo's clips.
  coarse = miles(dual({k: v for k, v in changes.items() if k != "clip"}), 0.1)
  return measured() | dict(
    seeds=(0, 1, 2),
    rates=(0.5, 1.0, 2.0),
    tables=(
      table("MAC: masked video", "mac:demo", mac, *masked()),
      table("MAC: kinds of masks", "mac:demo", mac, *kinds()),
      table("MAC: unmasked at the end", "mac:demo", mac, *tuned()),
      table("MAC: masked text", "mac:demo", mac, *mac_words()),
      table("SimVTP: masked text", "simvtp:demo", joint, *words()),
      table("SimVTP: masked video", "simvtp:demo", joint, *tubes()),
      table("SimVTP: loss terms", "simvtp:demo", joint, *terms()),
      table("SimVTP: fewer clips", "simvtp:demo", joint, *fewer()),
      table("MILES: the snapshot", "miles:demo", coarse, *snapshots()),
      table("The best of three", "mac:demo", mac, *combined(mac, joint)),
    ),
    claims=(
      *mac_claims("MAC: masked video"),
      claim(
        "MAC: words masked too lose no accuracy",
        "MAC: masked text / 15 % of tokens",
        "MAC: masked text / 0 % of tokens",
        better=False,
      ),
      claim(
        "MAC: after unmasked training at the end, masks lose no accuracy",
        "MAC: unmasked at the end / 75 % masked, then unmasked",
        "MAC: masked video / 0 % masked",
        better=False,
      ),
      claim(
        "SimVTP: 75 % of the tokens are better than 15 %",
        "SimVTP: masked text / 75 % of tokens",
        "SimVTP: masked text / 15 % of tokens",
      ),
      claim(
        "SimVTP: 90 % of the tubes are no worse than 50 %",
        "SimVTP: masked video / 90 % of tubes",
        "SimVTP: masked video / 50 % of tubes",
        better=False,
      ),
      claim(
        "SimVTP: reconstruction helps the contrast",
        "SimVTP: loss terms / + contrast",
        "SimVTP: loss terms / contrast alone",
      ),
      claim(
        "SimVTP: matching helps",
        "SimVTP: loss terms / + contrast + matching",
        "SimVTP: loss terms / + contrast",
      ),
      claim(
        "SimVTP: a tenth of the clips suffices with reconstruction",
        "SimVTP: fewer clips / 10 % of clips",
        "SimVTP: fewer clips / 100 % of clips, no reconstruction",
        better=False,
      ),
      claim(
        "MILES: predicting the snapshot's features helps",
        "MILES: the snapshot / EMA",
        "MILES: the snapshot / without features",
      ),
      claim(
        "MILES: an updated snapshot is better than a frozen one",
        "MILES: the snapshot / EMA",
        "MILES: the snapshot / frozen first",
      ),
      *(
        claim(
          f"One tower with the contrast alone is better than {name}",
          "The best of three / One tower, contrast alone",
          f"The best of three / {name}",
        )
        for name in ("MAC", "SimVTP", "MILES")
      ),
    ),
  )


def quick() -> dict:
  """MAC's first claim: two rows, two budgets, two seeds."""
  rows = [masked()[0], masked()[3]]
  return measured() | dict(
    seeds=(0, 1),
    budgets=(5.0, 10.0),
    tables=(table("MAC: masked video", "mac:demo", dual(FINE), *rows),),
    claims=mac_claims("MAC: masked video", (75,)),
  )


def gpu() -> dict:
  """MAC's masks with a larger model and larger batches, for one large GPU."""
  large = {"width": 384, "depth": 6, "mlp_dim": 1536, "num_heads": 6}
  scenes = {k: common.SCENES[k] for k in ("clip", "text", "data")}
  mac = dual(scenes | dict(batch_size=256), large)
  return measured() | dict(
    seeds=(0, 1),
    budgets=(2000.0, 4000.0, 8000.0),
    tables=(table("MAC: masked video", "mac:demo", mac, masked()[0], masked()[3]),),
    claims=mac_claims("MAC: masked video", (75,)),
  )


def smoke() -> dict:
  """Two rows of a few steps each, and one in two parts: all of it works."""
  return measured() | dict(
    seeds=(0,),
    budgets=(0.001, 0.002),
    rates=(0.5, 1.0),
    tables=(
      table("MAC: masked video", "mac:smoke", {}, *masked()[:2]),
      table("MAC: unmasked at the end", "mac:smoke", {}, *tuned()[:1]),
    ),
    claims=mac_claims("MAC: masked video", (40,)),
  )


def measured() -> dict:
  """Evaluations of every run; "top1" is zero-shot recognition of 10 motions."""
  return dict(
    evals=dict(
      test=common.retrieval("test"),
      motion=common.motion_recognition("test", single=True),
    ),
    trial_evals=dict(validation=common.retrieval("validation")),
    trial="validation/t2v/R@10",
    metrics=("test/t2v/R@1", "test/t2v/R@10", "motion/top1"),
  )


def dual(changes: dict, size: dict = TINY) -> dict:
  """Changes of a dual encoder's demo, for every row."""
  return changes | dict(objective=dict(video=size, text=size))


def joined(changes: dict) -> dict:
  """Changes of SimVTP's demo, for every row: masks as wide as MAC's rows."""
  decoder = dict(width=64, depth=1, mlp_dim=256, num_heads=2)
  return changes | dict(
    objective=dict(encoder=TINY, decoder=decoder),
    mask=dict(video_ratio=0.75),
  )


def table(title: str, config: str, changes: dict, *rows: dict) -> dict:
  return dict(title=title, config=config, changes=changes, rows=rows)


def row(name: str, then: dict | None = None, **changes) -> dict:
  return dict(name=name, changes=changes, then=then or {})


def other(name: str, config: str, changes: dict) -> dict:
  """A row of another config than its table's."""
  return dict(name=name, changes=changes, then={}, config=config)


def claim(text: str, ours: str, than: str, better: bool = True) -> dict:
  return dict(text=text, row=ours, than=than, better=better)


def mac_claims(title: str, percents: tuple[int, ...] = (60, 75)) -> tuple[dict, ...]:
  """No loss of accuracy, which is the paper's claim, at equal compute."""
  return tuple(
    claim(
      f"MAC: masking {p} % loses no accuracy",
      f"{title} / {p} % masked",
      f"{title} / 0 % masked",
      better=False,
    )
    for p in percents
  )


def masked() -> list[dict]:
  """MAC's claim: 60 % less computation, 3 times faster, no loss of accuracy."""
  return [
    row(f"{p} % masked", mask=dict(video="per_frame", video_ratio=p / 100))
    for p in (0, 40, 60, 75, 90)
  ]


def kinds() -> list[dict]:
  """Which tubelets: others in every frame, the same, or rectangles."""
  return [
    row(kind.replace("_", " "), mask=dict(video=kind, video_ratio=0.75))
    for kind in ("per_frame", "tube", "block")
  ]


def tuned() -> list[dict]:
  """The papers' protocol: pre-training with masks, then training without."""
  whole = dict(mask=dict(video_ratio=0.0))
  return [
    row(
      f"{p} % masked, then unmasked",
      then=whole,
      mask=dict(video="per_frame", video_ratio=p / 100),
    )
    for p in (75, 90)
  ]


def mac_words() -> list[dict]:
  """MAC masks text too."""
  return [
    row(
      f"{p} % of tokens",
      mask=dict(video="per_frame", video_ratio=0.75, text_ratio=p / 100),
    )
    for p in (0, 15, 40)
  ]


def words() -> list[dict]:
  """SimVTP's claim: 75 % of the tokens masked are better than 15 %."""
  return [row(f"{p} % of tokens", mask=dict(text_ratio=p / 100)) for p in (15, 50, 75)]


def tubes() -> list[dict]:
  """SimVTP masks 90 % of the tubes."""
  return [
    row(f"{p} % of tubes", mask=dict(video="tube", video_ratio=p / 100))
    for p in (50, 75, 90)
  ]


def terms() -> list[dict]:
  """SimVTP's claim: contrast and matching help."""
  both = dict(pixels=1.0, mlm=1.0)
  return [
    row("+ contrast", loss_weights=both | dict(vtc=1.0, vtm=0.0)),
    row("+ contrast + matching", loss_weights=both | dict(vtc=1.0, vtm=1.0)),
    row("contrast alone", **CONTRAST),
  ]


def fewer() -> list[dict]:
  """SimVTP's claim: a tenth of the data suffices."""
  rows = []
  for percent in (10, 30, 100):
    split = dict(data=dict(split=f"train[:{percent}%]")) if percent < 100 else {}
    rows += [
      row(f"{percent} % of clips", **split),
      row(f"{percent} % of clips, no reconstruction", **split, **CONTRAST),
    ]
  return rows


def miles(changes: dict, ratio: float = 0.4) -> dict:
  """Changes of MILES' demo, for every row: the same frames from the start."""
  data = changes.get("data", {}) | dict(curriculum=())
  return changes | dict(mask=dict(video_ratio=ratio), data=data)


def snapshots() -> list[dict]:
  """MILES' claim: predicting the snapshot's features helps its own dual encoder."""
  copied = lambda every: dict(teacher=dict(update="copy", update_every=every))
  return [
    row("without features", loss_weights=dict(vtc=1.0, features=0.0)),
    row("EMA"),
    row("copied every 50 steps", objective=copied(50)),
    row("frozen first", objective=copied(10**9)),
    row("EMA, projections", objective=dict(features="projection")),
    row("nothing masked", mask=dict(video_ratio=0.0), loss_weights=dict(features=0.0)),
  ]


def combined(mac: dict, joint: dict) -> list[dict]:
  """The three objectives, and one from their parts that pay, as changes of MAC's."""
  per_frame = dict(video="per_frame", video_ratio=0.75)
  decoder = dict(width=64, depth=1, mlp_dim=256, num_heads=2)
  drop = mac["objective"] | dict(masked_tokens="drop")
  dropped = miles(mac) | dict(mask=per_frame, objective=drop)
  return [
    row("MAC", mask=per_frame),
    other("SimVTP", "simvtp:demo", joint),
    other("MILES", "miles:demo", miles(mac)),
    # SimVTP's one tower for both sides, which reconstructs and matches nothing.
    other("One tower, contrast alone", "simvtp:demo", joint | CONTRAST),
    # SimVTP's reconstruction, in a tower that drops what is masked.
    row(
      "MAC + pixels",
      mask=per_frame,
      objective=dict(decoder=decoder),
      loss_weights=dict(vtc=1.0, pixels=1.0),
    ),
    # MILES' snapshot predicts the features of visible tubelets from all.
    other("MAC + features", "miles:demo", dropped),
    # The papers' order: masks first, then none; captions are whole.
    row("MAC, then unmasked", then=dict(mask=dict(video_ratio=0.0)), mask=per_frame),
  ]
