"""Parses flags as every command does; prints two values of the config."""

import sys

from ml_collections import config_flags

from vtr_jax.core import cli

chosen = config_flags.DEFINE_config_file("config", None, lock_config=True)
cli._parse(sys.argv)
values = cli.load(chosen, "")
print(values["clip"]["image_size"], values["contrastive"]["chunk"])
