"""Runs kopf in our loop, and runs it again when it ends: some errors of one watch end all of kopf."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import kopf
import structlog

from muster.control.handlers import registry_for, settings_for
from muster.control.store import version_of
from muster.control.tasks import end

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import aiohttp

    from muster.client import Call, Kind, KubernetesClient
    from muster.control.kinds import Key, Watched
    from muster.control.observability import Metrics
    from muster.control.queue import WorkQueue
    from muster.control.resync import Resync
    from muster.control.store import Store

log = structlog.stdlib.get_logger(__name__)

BEGINS_WITHIN = 3.0
"""Seconds in which kopf, once it is ready, begins each of its watches; doubled each time that it has not."""

_LONGEST_PAUSE = 10.0
_LONGEST_PATIENCE = 60.0
_HEALTHY_AFTER = 60.0


class Watches:
    """What the API server tells goes into the store, and the keys that it matters to into the queue."""

    def __init__(
        self,
        client: KubernetesClient,
        store: Store,
        queue: WorkQueue[Key],
        resync: Resync,
        *,
        watched: Callable[[], Sequence[Watched]],
        namespaces: Sequence[str],
        metrics: Metrics,
        on_started: Callable[[], None],
    ) -> None:
        self._client, self._store, self._queue, self._resync = client, store, queue, resync
        self._watched, self._namespaces = watched, namespaces
        self._metrics, self._on_started = metrics, on_started
        self._sessions: list[aiohttp.ClientSession] = []
        self._begun: set[str] = set()
        self._patience = BEGINS_WITHIN
        self._ready, self._changed = asyncio.Event(), asyncio.Event()

    @property
    def running(self) -> bool:
        return self._ready.is_set()

    def seen(self, kind: Kind, manifest: Mapping[str, Any]) -> None:
        for key in self._store.put(kind, manifest):
            self._queue.add(key)

    def deleted(self, kind: Kind, manifest: Mapping[str, Any]) -> None:
        for key in self._store.remove(kind, manifest, version_of(manifest)):
            self._queue.add(key)

    def change(self) -> None:
        """Begin anew: there are other kinds to watch."""
        self._changed.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        pause = 0.25
        while True:
            started = time.monotonic()
            self._changed.clear()
            reclaim = asyncio.create_task(self._tell_when_started())  # before kopf, or kopf would cancel it
            try:
                await self._watch_until_changed()
            except Exception as error:  # noqa: BLE001 - whatever it was, what helps is to begin anew
                log.warning("the watches failed", error=repr(error))
            finally:
                reclaim.cancel()
                self._ready.clear()
                for session in self._sessions:
                    await session.close()
                self._sessions.clear()
            if self._changed.is_set():
                await self._resync.first()
                continue
            self._metrics.watch_failures.inc()
            pause = 0.25 if time.monotonic() - started > _HEALTHY_AFTER else min(pause * 2, _LONGEST_PAUSE)
            await asyncio.sleep(pause)
            await self._resync.first()

    async def _watch_until_changed(self) -> None:
        self._begun.clear()
        # All before kopf, or kopf would cancel them; asked to stop, it would wait for its watchers, some for ever.
        missed = asyncio.create_task(self._begin_anew_where_one_is_missed())
        watching, changed = asyncio.create_task(self._watch()), asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait([watching, changed], return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()
                log.warning("the watches ended")
        finally:
            await end([watching, changed, missed])

    async def _begin_anew_where_one_is_missed(self) -> None:
        """A kind that was defined a moment ago can be listed before the API server says that it has it.

        What it does not say when kopf begins, kopf passes over in silence.
        """
        await self._ready.wait()
        await asyncio.sleep(self._patience)
        missed = {one.kind.plural for one in self._watched()} - self._begun
        if not missed:
            self._patience = BEGINS_WITHIN
            return
        log.info("beginning anew: not all kinds are watched", missed=sorted(missed))
        self._patience = min(2 * self._patience, _LONGEST_PATIENCE)
        self.change()

    async def _watch(self) -> None:
        watched = self._watched()
        await kopf.operator(
            registry=registry_for(watched, self, self._login),
            settings=settings_for(watched),
            standalone=True,
            # Of no use without peers; but left to itself, kopf asks for the user's name, which a pod's has not.
            identity="muster",  # type: ignore[arg-type]
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            ready_flag=self._ready,
        )

    async def _tell_when_started(self) -> None:
        await self._ready.wait()
        self._on_started()

    def _login(self) -> kopf.AiohttpSession:
        # All that kopf would list before it watches, `Resync` lists anyway, in less memory.
        session = self._client.watching_session(self._called, {one.kind.plural for one in self._watched()})
        self._sessions.append(session)
        return kopf.AiohttpSession(server=self._client.server, aiohttp_session=session)

    def _called(self, call: Call) -> None:
        self._metrics.called(call)
        if call.verb in {"list", "watch"}:
            self._begun.add(call.resource)
        # kopf lists at its start and after each gap of a watch, but does not tell what vanished in between.
        # A watch of what is not served any more it gives up, and does not tell either.
        if (call.verb, call.code) in {("list", "200"), ("list", "404"), ("watch", "404")}:
            self._resync.ask(call.resource)
        # Nor does it always end then, with none of its watches left: they wait for somebody to log them in again.
        if (call.verb, call.code) == ("watch", "404"):
            self.change()
