"""Ports for the servers that tests start.

Below those that the system gives to whoever connects to somewhere: one of these may be a client's by the time that the
server listens. And of a block that no other run of tests takes from, none twice until all were given: a server whose
words have two ports, or one that another run starts meanwhile, listens on its own only a second later.
"""

from __future__ import annotations

import functools
import random
import socket
from itertools import cycle
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCKS = [range(start, start + 1000) for start in range(15_000, 30_000, 1000)]
_random = random.SystemRandom()  # what tests seed would give the same to two that run side by side


def free_ports(count: int) -> list[int]:
    """Nobody's at the moment, and all different."""
    found: set[int] = set()
    while len(found) < count:
        port = next(_own())
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        found.add(port)
    return list(found)


@functools.cache
def _own() -> Iterator[int]:
    """Those of the first block whose first port this process could take, which it keeps as a mark to its end."""
    for block in _random.sample(_BLOCKS, len(_BLOCKS)):
        mark = socket.socket()
        try:
            mark.bind(("", block[0]))
        except OSError:
            mark.close()
        else:
            _marks.append(mark)
            return cycle(_random.sample(block[1:], len(block) - 1))
    raise RuntimeError(f"{len(_BLOCKS)} runs of tests have all the blocks of ports")


_marks: list[socket.socket] = []
