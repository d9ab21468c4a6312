"""One look at one resource: observe, plan, execute. Workers do that for the keys that the queue hands out."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from muster.client import NODES, PODS, ApiError, Client, Conflict
from muster.control.executor import Executor, Foreign, Stale
from muster.control.lease import Fence, NotLeading
from muster.control.store import lean
from muster.plan.model import Capacity, Observed, Plan, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from muster.control.kinds import Controlled, Key
    from muster.control.observability import Metrics
    from muster.control.queue import WorkQueue
    from muster.control.scraper import Scraper
    from muster.control.store import Store

log = structlog.stdlib.get_logger(__name__)

_CAPACITY_AGE = 1.0  # seconds that one count of the cluster's room serves several resources that wait
_ALIVE = "status.phase!=Succeeded,status.phase!=Failed"


class PlanningFailed(Exception):  # noqa: N818
    """A planner raised, or asked for what it had been given."""


@dataclass(frozen=True, slots=True)
class _Count:
    """What was counted, when, and how often room had changed by then."""

    at: float
    room_changes: int
    counted: Capacity

    def serves(self, room_changes: int) -> bool:
        return room_changes == self.room_changes and time.monotonic() - self.at <= _CAPACITY_AGE


class Reconciler:
    """Looks at resources, each by itself and never twice at once; the queue sees to that."""

    def __init__(
        self,
        *,
        controlled: Iterable[Controlled],
        settings: Settings,
        client: Client,
        store: Store,
        queue: WorkQueue[Key],
        executor: Executor,
        scraper: Scraper,
        fence: Fence,
        metrics: Metrics,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._controlled = {one.kind.kind: one for one in controlled}
        self._settings, self._client, self._store, self._queue = settings, client, store, queue
        self._executor, self._scraper, self._fence = executor, scraper, fence
        self._metrics, self._now = metrics, now
        self._admission = asyncio.Lock()
        self._capacity: _Count | None = None
        self.active = asyncio.Event()

    async def work(self) -> None:
        """Reconcile keys while active, until cancelled."""
        while True:
            await self.active.wait()
            key = await self._queue.get()
            try:
                if self.active.is_set():
                    await self._attempt(key)
                else:  # stopped while it waited for a key: whoever is activated next looks at everything
                    self._queue.add(key)
            finally:
                self._queue.done(key)

    async def _attempt(self, key: Key) -> None:
        started, outcome = time.monotonic(), "failed"
        try:
            outcome, look_again = await self._reconcile(key)
        except (Stale, Conflict) as reason:
            outcome = "stale"
            self._later(key, reason)
        except NotLeading:
            outcome = "not leading"
            self._queue.add_after(key, 1.0)
        except (PlanningFailed, Foreign, ApiError) as error:
            self._later(key, error, failed=True)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            outcome = "interrupted"  # a call within was cancelled by someone else
            self._queue.add_failed(key)
        except Exception:
            delay = self._queue.add_failed(key)
            log.exception("reconcile failed unexpectedly", resource=str(key), again_in=delay)
        else:
            self._queue.forget(key)
            if look_again is not None:
                self._queue.add_after(key, look_again)
        finally:
            self._metrics.reconciles.labels(key.kind, outcome).observe(time.monotonic() - started)

    def _later(self, key: Key, reason: Exception, *, failed: bool = False) -> None:
        delay = self._queue.add_failed(key)
        write = log.error if failed else log.debug
        write("reconcile put off", resource=str(key), reason=str(reason), again_in=delay, exc_info=reason.__cause__)

    async def _reconcile(self, key: Key) -> tuple[str, float | None]:
        observed = self._store.observe(key)
        if observed is None or observed.resource["metadata"].get("deletionTimestamp"):
            # What was made for it is the garbage collector's.
            self._scraper.forget(key)
            self._store.wait_for_room(key, waits=False)
            return "gone", None
        plan = self._plan(key, observed)
        if plan.needs_capacity:
            return await self._reconcile_with_capacity(key)
        self._store.wait_for_room(key, waits=False)
        return await self._carry_out(key, observed, plan)

    async def _reconcile_with_capacity(self, key: Key) -> tuple[str, float | None]:
        """Plan and carry out while no one else does: two that wait must not count the same room as theirs."""
        async with self._admission:
            capacity = await self._count()
            observed = self._store.observe(key, capacity)
            if observed is None:
                raise Stale("the resource went while the room was counted")
            plan = self._plan(key, observed)
            if plan.needs_capacity:
                raise PlanningFailed("the planner asked for the capacity that it was given")
            self._store.wait_for_room(key, waits=not plan.creates)
            if plan.creates or plan.deletes:
                self._capacity = None
            return await self._carry_out(key, observed, plan)

    def _plan(self, key: Key, observed: Observed) -> Plan:
        try:
            return self._controlled[key.kind].planner(observed, self._settings, self._now())
        except Exception as error:
            raise PlanningFailed(f"the planner of {key.kind} failed: {error!r}") from error

    async def _carry_out(self, key: Key, observed: Observed, plan: Plan) -> tuple[str, float | None]:
        wrote = await self._executor.execute(self._controlled[key.kind].kind, observed, plan)
        if self.active.is_set():  # not when the leadership, and with it all asking, ended meanwhile
            self._scraper.ask(key, plan.scrape)
        if wrote:  # what follows from what was just written
            self._queue.add(key)
        return "written" if wrote else "unchanged", plan.look_again

    async def _count(self) -> Capacity:
        """Everyone's pods and all nodes, from lists no older than a second or the last change of room seen."""
        valid = self._store.room_changes
        if self._capacity is not None and self._capacity.serves(valid):
            return self._capacity.counted
        started = time.monotonic()
        nodes = await self._client.list(NODES)
        pods = await self._client.list(PODS, field_selector=_ALIVE)
        counted = Capacity(tuple(map(lean, nodes.items)), tuple(map(lean, pods.items)))
        self._capacity = _Count(started, valid, counted)
        return counted
