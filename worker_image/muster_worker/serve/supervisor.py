"""Keeps a server up: its process serves, and when that dies another takes its place at once.

The parent has everything imported and holds the listening socket of HTTP. So clients that come while there is nobody
wait for the moment that it takes to load the model again, instead of being refused; only what the dead process was
answering is lost. A process that dies before it ever served is not tried again here: whoever started the parent knows
how long to wait. A member of a group has several such processes, each followed by another alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

AGAIN = os.EX_TEMPFAIL
"""The exit code of a process that wants another in its place, for nothing is wrong with itself."""

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_SHORT_LIFE = 5.0
"""Seconds: another dies so soon only if the cause of death is still there."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
"""Seconds before the next attempt, which double from one short life to the next."""


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


@dataclass(frozen=True, slots=True)
class Part:
    """One of the processes that are kept up."""

    name: str
    run: Callable[[Death | None, Told], int]
    hears: bool = True
    """It is told to leave, and once all that are told have left, the others are of no use."""

    lasting: bool = False
    """Whether one that has served once is followed by another whatever becomes of it: others still answer."""


def keep_up(parts: Sequence[Part]) -> int:
    """Run each in a process, and again in another when it dies having served; return the exit code of the last.

    One that never served takes all others with it. SIGTERM and SIGINT are passed on, and whatever those who hear it
    then end with is the end.
    """
    signals = _Signals()
    running = {place.start(signals): place for place in map(_Place, parts)}
    while True:
        pid, status = os.wait()
        place = running.pop(pid, None)
        if place is None:  # the first process of a container is given those that others have left behind
            continue
        signals.ended(pid)
        code = os.waitstatus_to_exitcode(status)
        exit_code = code if code >= 0 else 128 - code
        if place.is_over(exit_code, leaving=signals.leaving):
            if signals.leaving and any(one.part.hears for one in running.values()):
                continue
            _end(running)
            return 0 if exit_code == AGAIN else exit_code
        running[place.start(signals)] = place


class _Place:
    """Of one process after the other."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self._told = Told()
        self._has_served = False
        self._death: Death | None = None
        self._began, self._pause = -_SHORT_LIFE, 0.0

    def start(self, signals: _Signals) -> int:
        """The process's number."""
        lived = time.monotonic() - self._began
        self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE) if lived < _SHORT_LIFE else 0.0
        self._began = time.monotonic() + self._pause
        pid = signals.fork(hears=self.part.hears)
        if pid == 0:
            # Here, not in the parent, which has others to look after.
            _be_a_process(self.part, self._death, self._told, self._pause)
        return pid

    def is_over(self, exit_code: int, *, leaving: bool) -> bool:
        """Whether the process that ended is to have no other after it."""
        served = self._told.has_served()
        self._has_served = served or (self.part.lasting and self._has_served)
        if leaving and self.part.hears:
            return True
        if exit_code != AGAIN:
            if exit_code == 0 or not self._has_served:
                return True
            self._death = Death(self._death.count + 1 if self._death else 1, exit_code, time.time())
        name = self.part.name
        print(f"{name} ended with exit code {exit_code}: another takes its place", file=sys.stderr, flush=True)  # noqa: T201
        return False


def _end(running: Mapping[int, _Place]) -> None:
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    for pid in running:
        os.waitpid(pid, 0)


class _Signals:
    """Passes SIGTERM and SIGINT on to the processes that are to hear them.

    From the first moment to the last: the first process of a container does not get a signal that it does not handle.
    """

    _PASSED_ON = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.leaving = False
        self._hear: set[int] = set()
        for number in self._PASSED_ON:
            signal.signal(number, self._pass_on)

    def fork(self, *, hears: bool) -> int:
        """As os.fork; a signal that comes meanwhile reaches the child once it is known."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self._PASSED_ON)
        child = os.fork()
        if child == 0:
            for number in self._PASSED_ON:
                signal.signal(number, lambda *_: os._exit(0))  # until it has something to finish
        elif hears:
            self._hear.add(child)
            if self.leaving:
                os.kill(child, signal.SIGTERM)  # it came while there was nobody
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._PASSED_ON)
        return child

    def ended(self, child: int) -> None:
        self._hear.discard(child)

    def _pass_on(self, number: int, _frame: object) -> None:
        self.leaving = True
        for child in self._hear:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)


def _be_a_process(part: Part, death: Death | None, told: Told, pause: float) -> NoReturn:
    def run() -> int:
        time.sleep(pause)
        return part.run(death, told)

    end_with(run, part.name)


def end_with(run: Callable[[], int], name: str) -> NoReturn:
    """In a new process, which ends with the exit code of `run`: what waits on the parent's stack is the parent's."""
    code = 1
    try:
        process = ctypes.CDLL(None)
        # A server without a parent would keep its ports from the next one.
        process.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        process.prctl(_PR_SET_NAME, name.encode())  # as `ps` and `top` show it
        code = run()
    except Exception:  # noqa: BLE001 - nobody else is left to tell of it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Not by returning: the interpreter would wait for a computation that hangs.
        os._exit(code)
