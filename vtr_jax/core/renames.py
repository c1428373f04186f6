"""Config keys that were renamed since 0.1.0: old configs and runs are still read."""

from collections.abc import Mapping
from typing import Any

# Old path -> new path; "" = dropped, because it is derived. Sections come last.
KEYS = {
  "clip.frames": "clip.num_frames",
  "clip.size": "clip.image_size",
  "clip.tubelet": "clip.tubelet_size",
  "text.length": "text.max_length",
  "mask.send": "",
  "data.deadline": "data.decode_timeout",
  "data.bad_budget": "data.max_bad_fraction",
  "data.mix": "data.mixture",
  "data.workers": "data.num_workers",
  "objective.hidden": "objective.masked_tokens",
  "objective.longer_clips": "objective.time_pos_embed_resize",
  "objective.positions": "objective.pos_embed",
  "objective.family": "objective.arch",
  "objective.teacher.follow": "objective.teacher.update",
  "objective.teacher.every": "objective.teacher.update_every",
  "optim.ema": "optim.ema_decay",
  "weights.words": "weights.mlm",
  "weights": "loss_weights",
  "contrast": "contrastive",
}
_VALUES = {("objective.masked_tokens", "blank"): "mask_token"}
# Metrics whose sums a checkpoint holds between two log lines.
METRICS = {"loss/words": "loss/mlm"}


def upgrade(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
  """A config with today's keys, and a line for each key that was renamed.

  A key that is there under both names is left to `config.read`, which names the old
  one as unknown.
  """
  found, lines = _copy(values), []
  for old, new in KEYS.items():
    *path, key = old.split(".")
    section = _section(found, path)
    if section is None or key not in section:
      continue
    if not new:
      del section[key]
      lines.append(f"config.{old}: is derived from config.objective now; leave it out")
      continue
    name = new.rpartition(".")[2]
    if name in section:
      continue
    value = section.pop(key)
    section[name] = (
      _VALUES.get((new, value), value) if isinstance(value, str) else value
    )
    lines.append(f"config.{old}: is called config.{path_of(new)} now")
  mixture = (_section(found, ["data"]) or {}).get("mixture", ())
  for part in mixture if isinstance(mixture, list | tuple) else ():
    if isinstance(part, dict) and "frames" in part and "num_frames" not in part:
      part["num_frames"] = part.pop("frames")
      lines.append("config.data.mixture: frames is called num_frames now")
  return found, lines


def path_of(old: str) -> str:
  """Today's path of a config key; itself where it was not renamed."""
  new = KEYS.get(old, old)
  section, dot, rest = new.partition(".")
  return KEYS.get(section, section) + dot + rest


def argument(text: str) -> str:
  """A command line's `--config.KEY=VALUE` with today's key."""
  name, equals, value = text.partition("=")
  dashes, dot, key = name.partition("config.")
  if dashes not in ("-", "--") or not dot:
    return text
  new = path_of(key)
  return f"{dashes}config.{new}{equals}{_VALUES.get((new, value), value)}"


def _copy(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {k: _copy(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return type(value)(_copy(v) for v in value)
  return value


def _section(values: dict[str, Any], path: list[str]) -> dict[str, Any] | None:
  for name in path:
    values = values.get(name) if isinstance(values, dict) else None  # pyright: ignore
  return values if isinstance(values, dict) else None
