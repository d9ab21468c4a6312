"""One look at one resource: observe, plan, execute. Workers do that for the keys that the queue hands out."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from muster.client import ApiError, Conflict
from muster.control.executor import Executor, Refused, Stale
from muster.control.lease import Fence, NotLeading
from muster.plan.model import Observed, Plan, Refusal, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from muster.control.admissions import Admissions
    from muster.control.foreign import Foreign
    from muster.control.kinds import Controlled, Key
    from muster.control.observability import Metrics
    from muster.control.queue import WorkQueue
    from muster.control.scraper import Scraper
    from muster.control.store import Store

log = structlog.stdlib.get_logger(__name__)


class PlanningFailed(Exception):  # noqa: N818
    """A planner raised."""


class Reconciler:
    """Looks at resources, each by itself and never twice at once; the queue sees to that."""

    def __init__(
        self,
        *,
        controlled: Iterable[Controlled],
        settings: Settings,
        store: Store,
        queue: WorkQueue[Key],
        executor: Executor,
        admissions: Admissions,
        foreign: Foreign,
        scraper: Scraper,
        fence: Fence,
        metrics: Metrics,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._controlled = {one.kind.kind: one for one in controlled}
        self._settings, self._store, self._queue, self._admissions = settings, store, queue, admissions
        self._executor, self._scraper, self._fence, self._foreign = executor, scraper, fence, foreign
        self._metrics, self._now = metrics, now
        self._refusals: dict[Key, Refusal] = {}
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
        except Refused as refusal:
            outcome = "refused"
            self._refused(key, refusal)
        except (PlanningFailed, ApiError) as error:
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
        observed = self._store.observe(key, self._admissions.answer(key), self._refusals.get(key))
        if observed is None or observed.resource["metadata"].get("deletionTimestamp"):
            # What was made for it is the garbage collector's.
            self._scraper.forget(key)
            self._admissions.leave(key)
            self._foreign.forget(key)
            self._refusals.pop(key, None)
            return "gone", None
        plan = self._plan(key, observed)
        self._foreign.need(key, plan.needs)
        if plan.demand is not None:
            self._admissions.wait(key, plan.demand)
        elif not plan.creates:
            self._admissions.leave(key)
        outcome = await self._carry_out(key, observed, plan)
        if plan.creates:
            self._admissions.leave(key)
        if plan.creates or plan.besides:
            self._refusals.pop(key, None)
        return outcome

    def _plan(self, key: Key, observed: Observed) -> Plan:
        try:
            return self._controlled[key.kind].planner(observed, self._settings, self._now())
        except Exception as error:
            raise PlanningFailed(f"the planner of {key.kind} failed: {error!r}") from error

    async def _carry_out(self, key: Key, observed: Observed, plan: Plan) -> tuple[str, float | None]:
        wrote = await self._executor.execute(self._controlled[key.kind].kind, observed, plan)
        if self.active.is_set():  # not when the leadership, and with it all asking, ended meanwhile
            self._scraper.ask(key, plan.scrape)
        if wrote:  # what follows from what was just written; its echo in the watch is no news
            for concerned in self._store.concerned(key):
                self._queue.add(concerned)
        return "written" if wrote else "unchanged", plan.look_again

    def _refused(self, key: Key, refusal: Refused) -> None:
        """Look again soon: the status is to say so, and what was made already is not to wait for the rest."""
        before = self._refusals.get(key)
        times = before.times + 1 if before is not None else 1
        self._refusals[key] = Refusal(str(refusal), self._now(), times, refusal.besides)
        self._admissions.leave(key)
        self._later(key, refusal)
