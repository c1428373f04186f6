"""Waits for the other three of four processes; arguments: port, process id."""

import sys

from vtr_jax.core import cli, distributed

port, number = sys.argv[1:]
peers = distributed.Peers(f"127.0.0.1:{port}", 4, int(number), timeout=3.0)
cli.run(lambda: distributed.roll_call(peers))
