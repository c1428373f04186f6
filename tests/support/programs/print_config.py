"""Parses flags as every command does; prints the config's values of --print=KEY,..."""

import sys

from absl import flags
from ml_collections import config_flags

from vtr_jax.core import cli
from vtr_jax.core.config import flatten

chosen = config_flags.DEFINE_config_file("config", None, lock_config=True)
keys = flags.DEFINE_list("print", ["clip.image_size", "contrastive.chunk"], "Keys.")
cli._parse(sys.argv)
values = flatten(cli.load(chosen, ""))
print(*(values[key] for key in keys.value))
