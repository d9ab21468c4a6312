"""Kinds that others define: watched from when a plan needs them and the cluster has them, and not before.

At the start one look tells whether they are there; on a cluster that lacks them nothing more is asked until a
resource needs them.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import structlog

from muster.client import DEFINITIONS, ApiError, Client
from muster.control.kinds import FOREIGN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from muster.control.kinds import Key, Watched
    from muster.control.resync import Resync
    from muster.control.store import Store
    from muster.control.watches import Watches

log = structlog.stdlib.get_logger(__name__)

LOOK_AGAIN = 2.0
"""Seconds after which it is looked again for what somebody needs and is not there."""


class Foreign:
    """All methods are for one event loop."""

    def __init__(
        self, client: Client, store: Store, resync: Resync, watches: Watches, enqueue: Callable[[Iterable[Key]], None]
    ) -> None:
        self._client, self._store, self._enqueue = client, store, enqueue
        self._resync, self._watches = resync, watches
        self._needed: dict[Key, frozenset[str]] = {}
        self._asked = asyncio.Event()

    def need(self, key: Key, kinds: Iterable[str]) -> None:
        """The resource needs these kinds: it is looked at again once they are watched."""
        missing = frozenset(kind for kind in kinds if not self._store.follows(kind))
        if missing:
            self._needed[key] = missing
            self._asked.set()
        else:
            self._needed.pop(key, None)

    def forget(self, key: Key) -> None:
        self._needed.pop(key, None)

    async def run(self) -> None:
        """Look for what is needed until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN if self._needed else None):
                    await self._asked.wait()
            self._asked.clear()
            if self._needed:
                await self.look(frozenset().union(*self._needed.values()))
                self._tell()
                await asyncio.sleep(LOOK_AGAIN if self._needed else 0)

    async def look(self, kinds: frozenset[str] = frozenset(FOREIGN)) -> None:
        """Watch those of the kinds that the cluster has by now."""
        found = [one for name, one in FOREIGN.items() if name in kinds and await self._is_found(one)]
        for one in found:
            self._store.follow(one.kind)
        if found:
            log.info("watching more kinds", kinds=[one.kind.kind for one in found])
            self._watches.change()

    async def _is_found(self, one: Watched) -> bool:
        """What is not known of one kind, or may not be, is no matter of those who need another."""
        if self._store.follows(one.kind.kind):
            return False
        try:
            is_there = await self._client.exists(DEFINITIONS, None, f"{one.kind.plural}.{one.kind.group}")
            return is_there and await self._resync.add(one)
        except ApiError as error:
            log.warning("not known whether the cluster has what is needed", kind=one.kind.kind, error=str(error))
            return False

    def _tell(self) -> None:
        served = [key for key, kinds in self._needed.items() if all(map(self._store.follows, kinds))]
        for key in served:
            del self._needed[key]
        self._enqueue(served)
