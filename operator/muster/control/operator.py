"""Puts the pieces together and runs them until told to stop."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from muster.control import http
from muster.control.admissions import Admissions
from muster.control.executor import Executor
from muster.control.foreign import Foreign
from muster.control.kinds import FOREIGN, Controlled, Key, Watched, watched
from muster.control.lease import Elector, Fence, FencedClient, LeaseTimes
from muster.control.queue import WorkQueue
from muster.control.reconciler import Reconciler
from muster.control.resync import Resync
from muster.control.scraper import Scraper
from muster.control.store import Store
from muster.control.tasks import end
from muster.control.watches import Watches

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from muster.client import KubernetesClient
    from muster.control.observability import Metrics
    from muster.plan.model import Settings

log = structlog.stdlib.get_logger(__name__)

REPORTER = "muster.dev/operator"


@dataclass(frozen=True, slots=True)
class Options:
    """How this operator is to run."""

    settings: Settings
    identity: str
    namespaces: tuple[str, ...] = ()
    leader_election: bool = True
    lease_name: str = "muster"
    lease_namespace: str = "muster-system"
    lease_times: LeaseTimes = field(default_factory=LeaseTimes)
    http_port: int = 8080
    take_signals: bool = True
    workers: int = 32  # as many as the client has connections: most of a look is waiting for an answer
    resync_every: float = 180.0


class Operator:
    """One operator process: observes always, writes while it leads."""

    def __init__(
        self,
        options: Options,
        controlled: Sequence[Controlled],
        client: KubernetesClient,
        metrics: Metrics,
    ) -> None:
        self._options, self._client, self.metrics = options, client, metrics
        self.stopping = asyncio.Event()
        self.http_port = 0
        self.fence = Fence() if options.leader_election else Fence(until=float("inf"))
        self.store = Store(controlled)
        self.queue: WorkQueue[Key] = WorkQueue(observer=metrics)
        # Behind a hundred pods that wait for a connection, a renewal would come too late.
        self._lease_client = client.beside(connections=2)
        self._elector = Elector(
            self._lease_client,
            self.fence,
            namespace=options.lease_namespace,
            name=options.lease_name,
            identity=options.identity,
            times=options.lease_times,
        )
        fenced = FencedClient(client, self.fence)
        kinds = watched(controlled)
        self._kinds = [one.kind for one in (*kinds, *FOREIGN.values())]
        self._scraper = Scraper(self.store, self.queue.add, metrics)
        self._resync = Resync(
            client,
            self.store,
            kinds,
            namespaces=options.namespaces,
            enqueue=self._enqueue,
            metrics=metrics,
            every=options.resync_every,
        )
        self._admissions = Admissions(client, self.store, self.queue.add, everywhere=not options.namespaces)
        self.store.on_room_change = self._admissions.room_changed
        self._watches = Watches(
            client,
            self.store,
            self.queue,
            self._resync,
            watched=lambda: self._resync.watched,
            namespaces=options.namespaces,
            metrics=metrics,
            on_started=self._take_signals,
        )
        self._foreign = Foreign(client, self.store, self._resync, self._watches, self._enqueue)
        self._looked = asyncio.Event()  # for kinds that others define: whoever is there is to be known before any plan
        self._resync.on_gone = self._gone
        self._resync.on_opened = self._watches.change
        self._reconciler = Reconciler(
            controlled=controlled,
            settings=options.settings,
            store=self.store,
            queue=self.queue,
            executor=Executor(fenced, self.store, reporter=REPORTER, identity=options.identity),
            admissions=self._admissions,
            foreign=self._foreign,
            scraper=self._scraper,
            fence=self.fence,
            metrics=metrics,
        )
        metrics.leader.set_function(lambda: float(self.leading))
        for kind in self._kinds:
            metrics.store_objects.labels(kind.kind).set_function(lambda kind=kind: self.store.count(kind))

    @property
    def leading(self) -> bool:
        return self.fence.is_open

    @property
    def synced(self) -> bool:
        return self._resync.synced.is_set() and self._watches.running

    async def run(self) -> None:
        """Run until `stopping` is set or a signal comes; raises what made a part of it fail."""
        self._take_signals()
        app = http.application(self.metrics.registry, ready=self._unready)
        runner, self.http_port = await http.serve(app, self._options.http_port)
        await self._scraper.open()
        # All our tasks are started before kopf: it cancels what was started after it when it ends.
        writing = [
            *(asyncio.create_task(self._reconciler.work()) for _ in range(self._options.workers)),
            *(asyncio.create_task(loop) for loop in self._scraper.loops()),
            asyncio.create_task(self._admissions.run()),
            asyncio.create_task(self._foreign.run()),
            asyncio.create_task(self._follow_the_leadership()),
        ]
        observing = [asyncio.create_task(self._resync.run())]
        electing = [asyncio.create_task(self._elect())] if self._options.leader_election else []
        watching: list[asyncio.Task[None]] = []
        stop = asyncio.create_task(self.stopping.wait())
        try:
            await self._unless_stopped(stop, self._resync.first())
            await self._unless_stopped(stop, self._foreign.look())
            self._looked.set()
            watching = [asyncio.create_task(self._watches.run())]
            parts = [*writing, *observing, *electing, *watching]
            done, _ = await asyncio.wait([stop, *parts], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stop}:
                task.result()
        finally:
            # No write may be on its way when the lease is given up.
            await end([*writing, *electing])
            if self._options.leader_election:
                await self._elector.release()
            await self._lease_client.close()
            self.queue.close()
            await end([*observing, *watching, stop])
            await self._scraper.close()
            await runner.cleanup()

    def _unready(self) -> str:
        if not self._resync.synced.is_set():
            return "the cluster is not known yet"
        return "" if self._watches.running else "not watching"

    def _enqueue(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self.queue.add(key)

    def _gone(self, one: Watched) -> None:
        """The cluster has lost a kind that others define; who needs it says so again."""
        log.warning("the cluster does not have this kind any more", kind=one.kind.kind)
        self.store.unfollow(one.kind)
        self._enqueue(self.store.keys())
        self._watches.change()

    async def _elect(self) -> None:
        """Stand for election once the cluster is known: who cannot see must not lead."""
        await self._resync.synced.wait()
        await self._elector.run()

    async def _follow_the_leadership(self) -> None:
        """Reconcile while leading, beginning from a fresh look at everything."""
        while True:
            if self._options.leader_election:
                await self._elector.leading.wait()
            await self._resync.synced.wait()
            await self._looked.wait()
            await self._resync.first()
            self._enqueue(self.store.keys())
            self._reconciler.active.set()
            if not self._options.leader_election:
                return await asyncio.Event().wait()  # type: ignore[return-value]
            await self._elector.following.wait()
            self._reconciler.active.clear()
            self._scraper.forget_all()
            self._admissions.leave_all()

    async def _unless_stopped(self, stop: asyncio.Task[bool], coroutine: object) -> None:
        task = asyncio.ensure_future(coroutine)  # type: ignore[call-overload]
        await asyncio.wait([stop, task], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            await end([task])

    def _take_signals(self) -> None:
        """Have signals set `stopping`; kopf takes them for itself at each of its starts, so we take them back."""
        if not self._options.take_signals:
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
