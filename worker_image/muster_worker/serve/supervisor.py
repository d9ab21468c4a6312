"""Keeps a server up: its process serves, and when that dies another takes its place at once.

The parent has everything imported and holds the listening socket of HTTP. So clients that come while there is nobody
wait for the moment that it takes to load the model again, instead of being refused; only what the dead process was
answering is lost. A process that dies before it ever served is not tried again here: whoever started the parent knows
how long to wait.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Death:
    """How the process before this one ended: `count` is how many have, `at` is in seconds since the epoch."""

    count: int
    exit_code: int
    at: float


class Told:
    """How a process tells its parent that it serves."""

    def __init__(self) -> None:
        self._reads, self._writes = os.pipe()

    def serving(self) -> None:
        os.write(self._writes, b"s")

    def has_served(self) -> bool:
        """Whether it was told since the last time that this was asked."""
        readable, _, _ = select.select([self._reads], [], [], 0)
        return bool(readable) and bool(os.read(self._reads, 16))


def keep_up(serve: Callable[[Death | None, Told], int]) -> int:
    """Run `serve` in a process, and again in another whenever it dies having served; return the last exit code.

    SIGTERM and SIGINT are passed on, and whatever it then ends with is the end.
    """
    told, death = Told(), None
    while True:
        child = os.fork()
        if child == 0:
            _be_a_server(serve, death, told)
        leaving, exit_code = _wait(child)
        if leaving or exit_code == 0 or not told.has_served():
            return exit_code
        death = Death(death.count + 1 if death else 1, exit_code, time.time())
        print(f"the server ended with exit code {exit_code}: another takes its place", file=sys.stderr, flush=True)  # noqa: T201


def _be_a_server(serve: Callable[[Death | None, Told], int], death: Death | None, told: Told) -> None:
    """Never returns: what waits on the parent's stack is the parent's."""
    code = 1
    try:
        # A server without a parent would keep its ports from the next one.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        code = serve(death, told)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Not by returning: the interpreter would wait for a computation that hangs.
        os._exit(code)


def _wait(child: int) -> tuple[bool, int]:
    """Return whether it was told to leave, and the exit code: 128 + n for signal n."""
    leaving = False

    def pass_on(number: int, _frame: object) -> None:
        nonlocal leaving
        leaving = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        _, status = os.waitpid(child, 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    code = os.waitstatus_to_exitcode(status)
    return leaving, code if code >= 0 else 128 - code
