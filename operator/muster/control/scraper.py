"""Asks the agents in pods for their state, about once a second each, within a budget of questions.

Pull, so that pods need no rights at all. A fixed number of askers share the targets; when there are more than
the budget allows, the interval stretches, first for those whose answer nobody waits for; and it stretches for one that
says the same again and again. What an agent answers, and since when one is silent, goes into the store; the resource is
looked at again when an answer says something new, other than times.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import json
import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import aiohttp
import structlog
from yarl import URL

from muster.plan.model import Target, WorkerReport

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from muster.control.kinds import Key
    from muster.control.observability import Metrics
    from muster.control.store import Store

log = structlog.stdlib.get_logger(__name__)

_LARGEST_ANSWER = 1 << 20  # bytes
_DEEPEST = 50  # levels of dicts and lists: an agent's own have a handful
_ASKERS = 64
_LONGEST_STRETCH = 5
"""Times the interval, for one that has nothing new to say: a program that reports no steps, mostly."""


def news(state: Any) -> Any:
    """The state without its times, which change with every answer and say nothing new."""
    if isinstance(state, dict):
        return {
            name: news(value)
            for name, value in state.items()
            if name not in {"at", "silentSeconds"} and not name.endswith("At")
        }
    if isinstance(state, list):
        return [news(value) for value in state]
    return state


class Scraper:
    """Keeps asking the targets of every resource until they are no longer named."""

    def __init__(
        self,
        store: Store,
        enqueue: Callable[[Key], None],
        metrics: Metrics,
        *,
        interval: float = 1.0,
        budget: float = 200.0,
        limit: float = 1.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._enqueue, self._metrics, self._now = store, enqueue, metrics, now
        self._shortest, self._budget = interval, budget
        self._limit = aiohttp.ClientTimeout(total=limit)
        self._asked: dict[Key, dict[str, Target]] = {}
        self._owner: dict[str, Key] = {}
        self._eager: set[str] = set()
        self._unchanged: dict[str, int] = {}  # how many answers in a row that said nothing new
        self._due: list[tuple[float, str]] = []
        self._due_at: dict[str, float] = {}  # which entry of those above counts
        self._in_hand: set[str] = set()
        self._earlier = asyncio.Event()
        self._ready: asyncio.Queue[str] = asyncio.Queue()
        self._session: aiohttp.ClientSession | None = None

    @property
    def interval(self) -> float:
        """Seconds between two questions to one target, as many as there are now, that is not an eager one."""
        others = len(self._owner) - len(self._eager)
        left = self._budget - len(self._eager) / self._eager_interval
        return max(self._shortest, others / left)

    @property
    def _eager_interval(self) -> float:
        """They may have half of the budget."""
        return max(self._shortest, len(self._eager) / (self._budget / 2))

    def ask(self, key: Key, targets: Iterable[Target]) -> None:
        """From now on ask these, and no others, for this resource."""
        wanted = {target.pod_uid: target for target in targets}
        known = self._asked.get(key, {})
        if wanted == known:
            return
        for uid in known.keys() - wanted.keys():
            del self._owner[uid]
            self._eager.discard(uid)
            self._unchanged.pop(uid, None)
        for uid, target in wanted.items():
            self._owner[uid] = key
            was_eager = uid in self._eager
            (self._eager.add if target.eager else self._eager.discard)(uid)
            given = target.word is not None and (uid not in known or known[uid].word != target.word)
            if uid not in self._due_at or (target.eager and not was_eager) or given:
                self._schedule(uid, 0.0)
        if wanted:
            self._asked[key] = wanted
        else:
            self._asked.pop(key, None)
        self._metrics.scrape_targets.set(len(self._owner))
        self._metrics.scrape_interval.set(self.interval)

    def forget(self, key: Key) -> None:
        self.ask(key, ())

    def forget_all(self) -> None:
        for key in list(self._asked):
            self.forget(key)
        self._store.forget_reports()

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_ASKERS, keepalive_timeout=30.0), timeout=self._limit
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        """What is to be run; a fixed number, since kopf cancels at its end all that was started after it."""
        return [self._dispatch(), *(self._work() for _ in range(_ASKERS))]

    async def _dispatch(self) -> None:
        """Hand out the targets whose time has come."""
        while True:
            wait = self._due[0][0] - time.monotonic() if self._due else None
            if wait is not None and wait <= 0:
                due, uid = heapq.heappop(self._due)
                if self._due_at.get(uid) == due:
                    del self._due_at[uid]
                    self._in_hand.add(uid)
                    self._ready.put_nowait(uid)
                continue
            self._earlier.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._earlier.wait()

    async def _work(self) -> None:
        while True:
            uid = await self._ready.get()
            key = self._owner.get(uid)
            try:
                if key is not None:
                    await self._question(key, self._asked[key][uid])
            finally:
                self._in_hand.discard(uid)
                if uid in self._owner:
                    self._schedule(uid, self._pause(self._asked[self._owner[uid]][uid]))

    def _pause(self, target: Target) -> float:
        """Seconds until it is asked again."""
        if target.eager:
            return self._eager_interval
        stretch = 1 if target.steady else 1 + self._unchanged.get(target.pod_uid, 0)
        return self.interval * min(stretch, _LONGEST_STRETCH)

    def _schedule(self, uid: str, delay: float) -> None:
        """Have it asked after so long, unless it is to be asked sooner, or is being asked."""
        # A little at random: targets that came together need not be asked together.
        due = time.monotonic() + delay * random.uniform(0.95, 1.05)  # noqa: S311
        if uid in self._in_hand or self._due_at.get(uid, due) < due:
            return
        self._due_at[uid] = due
        heapq.heappush(self._due, (due, uid))
        if self._due[0][1] == uid:
            self._earlier.set()

    async def _question(self, key: Key, target: Target) -> None:
        state = await self._fetch(target)
        if self._owner.get(target.pod_uid) != key:
            return  # no longer asked for while the answer was on its way
        before = self._store.report(target.pod_uid)
        self._metrics.scrapes.labels("silent" if state is None else "answered").inc()
        report = _report(before, state, self._now())
        if before is not None and before.silent_since is not None and state is not None and self._are_all_silent():
            self._store.hear_again(report.received_at)
        self._store.put_report(target.pod_uid, report)
        if _says_something_new(before, report):
            self._unchanged.pop(target.pod_uid, None)
            self._enqueue(key)
        elif report.silent_since is None:
            self._unchanged[target.pod_uid] = self._unchanged.get(target.pod_uid, 0) + 1

    def _are_all_silent(self) -> bool:
        """Whether nobody who has been asked answers: then it is us whom they do not hear."""
        reports = map(self._store.report, self._owner)
        return all(report is None or report.silent_since is not None for report in reports)

    async def _fetch(self, target: Target) -> Mapping[str, Any] | None:
        """The agent's state; None when it does not answer with one in time."""
        assert self._session is not None
        said = [("gone", pod) for pod in target.gone]
        if target.word is not None:
            said.append(("word", target.word))
        url = URL.build(scheme="http", host=target.address, port=target.port, path="/state", query=said)
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    return None
                raw = await response.content.read(_LARGEST_ANSWER + 1)
                while not response.content.at_eof() and len(raw) <= _LARGEST_ANSWER:
                    raw += await response.content.read(_LARGEST_ANSWER + 1 - len(raw))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return None
        return _state(raw) if len(raw) <= _LARGEST_ANSWER else None


def _state(raw: bytes) -> Mapping[str, Any] | None:
    """Return what was answered, if it can be a state: in a pod runs what its owner likes."""
    try:
        state = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return state if isinstance(state, dict) and _is_shallow(state, _DEEPEST) else None


def _is_shallow(value: Any, levels: int) -> bool:
    """Whether it can be looked through by functions that call themselves for what is inside."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_shallow(one, levels - 1) for one in inner)


def _report(before: WorkerReport | None, state: Mapping[str, Any] | None, now: float) -> WorkerReport:
    if state is not None:
        return WorkerReport(state, received_at=now)
    if before is None:
        return WorkerReport(None, received_at=now, silent_since=now)
    return replace(before, silent_since=before.silent_since if before.silent_since is not None else now)


def _says_something_new(before: WorkerReport | None, after: WorkerReport) -> bool:
    if before is None:
        return True
    if (before.silent_since is None) != (after.silent_since is None):
        return True
    return before.state is not after.state and news(before.state) != news(after.state)
