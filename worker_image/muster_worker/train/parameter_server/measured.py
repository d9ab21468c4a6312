"""What the machines of servers and workers can do, for as long as they are there."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from muster_worker.train.preflight import notable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Figures = dict[str, Any]


class Measured:
    """Thread-safe. `tell` is given the figures of all, as `preflight` has them, now and when a worker comes or goes.

    Of one that has gone nothing is told any more: who takes its place may be on another machine.
    """

    def __init__(self, servers: Sequence[Figures], tell: Callable[[list[Figures]], None]) -> None:
        self._servers, self._tell = servers, tell
        self._workers: dict[Any, Figures] = {}
        self._lock = threading.Lock()
        self._say()

    def come(self, holder: Any, found: Figures) -> None:
        with self._lock:
            self._workers[holder] = found
            self._say()

    def go(self, holder: Any) -> None:
        with self._lock:
            if self._workers.pop(holder, None) is not None:
                self._say()

    def _say(self) -> None:
        everybody = sorted([*self._servers, *self._workers.values()], key=lambda one: int(one["rank"]))
        self._tell(notable(everybody))
