"""Config keys that were renamed since 0.1.0: old configs and runs are still read."""

from collections.abc import Mapping
from typing import Any

from vtr_jax.core.errors import ConfigError

# Old path -> new path. Sections come last.
KEYS = {
  "clip.frames": "clip.num_frames",
  "clip.size": "clip.image_size",
  "clip.tubelet": "clip.tubelet_size",
  "text.length": "text.max_length",
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
# Removed keys: the values equal to today's behaviour; () = any, it is derived now.
DROPPED = {
  "mask.send": (),
  "objective.residual": ("frozen",),
  "objective.target": ("tower",),
}
# Keys of a dual encoder's video tower, today in the section of its backbone.
MOVED = {
  f"objective.{old}": f"objective.video.{new}"
  for old, new in dict(
    attention="name",
    time_init="time_init",
    pos_embed="pos_embed",
    time_pos_embed_resize="time_pos_embed_resize",
  ).items()
}
_VALUES = {("objective.masked_tokens", "blank"): "mask_token"}
_VALUES |= {("objective.video.name", "joint"): "vit"}
# Values that were removed, of keys that were not.
REPLACED = {("objective.compute.attention", "splash"): "auto"}
# Metrics whose sums a checkpoint holds between two log lines.
METRICS = {"loss/words": "loss/mlm"}


def upgrade(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
  """A config with today's keys, and a line for each key that was renamed.

  A key that is present under both names is left to `config.read`, which names the old
  one as unknown.

  Raises:
    ConfigError: a removed key has a value that nothing replaces.
  """
  current, lines = _copy(values), []
  for key, default_values in DROPPED.items():
    *path, name = key.split(".")
    section = _section(current, path)
    if section is not None and name in section:
      value = section.pop(name)
      if default_values and value not in default_values:
        raise ConfigError(
          f"config.{key}: {value!r} was removed after 0.1.0; use that version for it, "
          f"or leave the key out, which means {default_values[0]!r}"
        )
      lines.append(f"config.{key}: no longer a key; leave it out")
  for old, new in KEYS.items():
    *path, key = old.split(".")
    section = _section(current, path)
    if section is None or key not in section:
      continue
    name = new.rpartition(".")[2]
    if name in section:
      continue
    value = section.pop(key)
    section[name] = (
      _VALUES.get((new, value), value) if isinstance(value, str) else value
    )
    lines.append(f"config.{old}: is called config.{path_of(new)} now")
  lines += _move_video_keys(current)
  for (path, old), new in REPLACED.items():
    *parents, key = path.split(".")
    section = _section(current, parents)
    if section is not None and section.get(key) == old:
      section[key] = new
      lines.append(f"config.{path}: {old!r} was removed; {new!r} replaces it")
  mixture = (_section(current, ["data"]) or {}).get("mixture", ())
  for part in mixture if isinstance(mixture, list | tuple) else ():
    if isinstance(part, dict) and "frames" in part and "num_frames" not in part:
      part["num_frames"] = part.pop("frames")
      lines.append("config.data.mixture: frames is called num_frames now")
  return current, lines


def _move_video_keys(values: dict[str, Any]) -> list[str]:
  """Moves keys into `objective.video`, if there is such a section; returns lines."""
  objective, lines = _section(values, ["objective"]), []
  video = _section(values, ["objective", "video"])
  if objective is None or video is None:
    return []
  for old, new in MOVED.items():
    key, name = old.rpartition(".")[2], new.rpartition(".")[2]
    if key in objective and name not in video:
      value = objective.pop(key)
      video[name] = (
        _VALUES.get((new, value), value) if isinstance(value, str) else value
      )
      lines.append(f"config.{old}: is called config.{new} now")
  return lines


def path_of(old: str) -> str:
  """Today's path of a config key; itself where it was not renamed."""
  new = KEYS.get(old, old)
  section, dot, rest = new.partition(".")
  return KEYS.get(section, section) + dot + rest


def argument(text: str, unknown: str = "") -> str:
  """A command line's `--config.KEY=VALUE` with today's key; "" for a removed one.

  Args:
    text: the argument.
    unknown: last part of a key that the config lacks; a key of `MOVED` that ends in it
      is moved, as other objectives may have the old one.
  """
  name, equals, value = text.partition("=")
  dashes, dot, key = name.partition("config.")
  if dashes not in ("-", "--") or not dot:
    return text
  if key in DROPPED and (not DROPPED[key] or value in DROPPED[key]):
    return ""
  new = path_of(key)
  if new.rpartition(".")[2] == unknown:
    new = MOVED.get(new, new)
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
