"""Ports for the servers that tests start.

Below those that the system gives to whoever connects to somewhere: one of these may be a client's by the time that the
server listens.
"""

from __future__ import annotations

import random
import socket

_RANGE = range(15_000, 30_000)
_random = random.SystemRandom()  # what tests seed would give the same to two that run side by side


def free_ports(count: int) -> list[int]:
    """Nobody's at the moment, and all different."""
    found: set[int] = set()
    while len(found) < count:
        port = _random.choice(_RANGE)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        found.add(port)
    return list(found)
