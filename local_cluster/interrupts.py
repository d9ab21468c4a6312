"""Ctrl-C, SIGTERM and SIGHUP become an exception at points where it is safe to stop.

A handler that raises wherever the interpreter happens to be would lose a child between its fork and the
line that remembers it. So the handler only sets a flag, and everything that waits looks at it.
"""

import signal
import time
from collections.abc import Callable
from types import FrameType

from local_cluster.errors import ClusterError

_received: list[int] = []
_delivered: list[int] = []


class Interrupted(Exception):  # noqa: N818 - it is a request, not an error
    """The person, or the system, asked the command to stop."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(signal.Signals(signum).name)


def install() -> None:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _remember)


def _remember(signum: int, _frame: FrameType | None) -> None:
    _received.append(signum)


def check() -> None:
    """Raises Interrupted once; cleaning up afterwards is not disturbed by a second Ctrl-C."""
    if _received and not _delivered:
        _delivered.append(_received[0])
        raise Interrupted(_received[0])


def forget() -> None:
    """Starts anew, as if no signal had come."""
    _received.clear()
    _delivered.clear()


def sleep(seconds: float) -> None:
    """Sleeps, and wakes within 50 ms of a signal."""
    end = time.monotonic() + seconds
    while True:
        check()
        left = end - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, 0.05))


def wait_for(what: str, condition: Callable[[], bool], limit: float, every: float = 0.1) -> None:
    """Asks `condition` until it holds; after `limit` seconds raises ClusterError naming `what`."""
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise ClusterError(f"{what}: not so after {limit:.0f} s")
        sleep(every)
