"""Waits for the other three of four processes; arguments: port, process id."""

from vtr_jax.core import cli, distributed


def find(port, number):
  peers = distributed.Peers(f"127.0.0.1:{port}", 4, int(number), timeout=3.0)
  distributed.roll_call(peers)


cli.run(find, arguments=True)
