"""Runs kopf in our loop, and runs it again when it ends: some errors of one watch end all of kopf."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import kopf
import structlog

from muster.control.handlers import registry_for, settings_for

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

_LONGEST_PAUSE = 10.0
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
        watched: Sequence[Watched],
        namespaces: Sequence[str],
        metrics: Metrics,
        on_started: Callable[[], None],
    ) -> None:
        self._client, self._store, self._queue, self._resync = client, store, queue, resync
        self._watched, self._namespaces = watched, namespaces
        self._metrics, self._on_started = metrics, on_started
        self._sessions: list[aiohttp.ClientSession] = []
        self._ready = asyncio.Event()

    @property
    def running(self) -> bool:
        return self._ready.is_set()

    def seen(self, kind: Kind, manifest: Mapping[str, Any]) -> None:
        for key in self._store.put(kind, manifest):
            self._queue.add(key)

    def deleted(self, kind: Kind, manifest: Mapping[str, Any]) -> None:
        for key in self._store.remove(kind, manifest):
            self._queue.add(key)

    async def run(self) -> None:
        """Watch until cancelled."""
        pause = 0.25
        while True:
            started = time.monotonic()
            reclaim = asyncio.create_task(self._tell_when_started())  # before kopf, or kopf would cancel it
            try:
                await self._watch()
                log.warning("the watches ended")
            except Exception as error:  # noqa: BLE001 - whatever it was, what helps is to begin anew
                log.warning("the watches failed", error=repr(error))
            finally:
                reclaim.cancel()
                self._ready.clear()
                for session in self._sessions:
                    await session.close()
                self._sessions.clear()
            self._metrics.watch_failures.inc()
            pause = 0.25 if time.monotonic() - started > _HEALTHY_AFTER else min(pause * 2, _LONGEST_PAUSE)
            await asyncio.sleep(pause)
            await self._resync.first()

    async def _watch(self) -> None:
        await kopf.operator(
            registry=registry_for(self._watched, self, self._login),
            settings=settings_for(self._watched),
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
        session = self._client.watching_session(self._called, {one.kind.plural for one in self._watched})
        self._sessions.append(session)
        return kopf.AiohttpSession(server=self._client.server, aiohttp_session=session)

    def _called(self, call: Call) -> None:
        self._metrics.called(call)
        # kopf lists at its start and after each gap of a watch, but does not tell what vanished in between.
        if call.verb == "list" and call.code == "200":
            self._resync.ask(call.resource)
