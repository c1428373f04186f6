"""Connects to the other processes and ends."""

from vtr_jax.core import cli as command
from vtr_jax.core import distributed

command.run(lambda: distributed.start(distributed.find(heartbeat=10, timeout=60.0)))
