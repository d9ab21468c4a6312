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
from typing import TYPE_CHECKING, NoReturn

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
    told, death, signals = Told(), None, _Signals()
    while True:
        child = signals.fork()
        if child == 0:
            _be_a_server(serve, death, told)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        exit_code = code if code >= 0 else 128 - code
        if signals.leaving or exit_code == 0 or not told.has_served():
            return exit_code
        death = Death(death.count + 1 if death else 1, exit_code, time.time())
        print(f"the server ended with exit code {exit_code}: another takes its place", file=sys.stderr, flush=True)  # noqa: T201


class _Signals:
    """Passes SIGTERM and SIGINT on to the newest process.

    From the first moment to the last: the first process of a container does not get a signal that it does not handle.
    """

    _PASSED_ON = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.leaving = False
        self._child = 0
        for number in self._PASSED_ON:
            signal.signal(number, self._pass_on)

    def fork(self) -> int:
        """As os.fork; a signal that comes meanwhile reaches the child once it is known."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self._PASSED_ON)
        self._child = os.fork()
        if self._child == 0:
            for number in self._PASSED_ON:
                signal.signal(number, signal.SIG_DFL)
        elif self.leaving:
            os.kill(self._child, signal.SIGTERM)  # it came while there was nobody
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._PASSED_ON)
        return self._child

    def _pass_on(self, number: int, _frame: object) -> None:
        self.leaving = True
        if self._child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, number)


def _be_a_server(serve: Callable[[Death | None, Told], int], death: Death | None, told: Told) -> NoReturn:
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
