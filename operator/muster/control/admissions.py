"""Answers the demands of all resources that wait, together, from one count of the cluster's room.

Who wants to start says so here and is looked at again when the answer is there or has changed. What was granted
counts as taken until its pods are made: the next LIST shows them. Room is counted only while somebody waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import structlog

from muster.client import (
    CONFIG_MAPS,
    DEFINITIONS,
    DEVICE_CLASSES,
    LOCAL_QUEUES,
    PODS,
    PRIORITY_CLASSES,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_CLAIMS,
    STORAGE_CLASSES,
    VOLUME_CLAIMS,
    ApiError,
    Client,
    Invalid,
    NotFound,
    Object,
)
from muster.control.kinds import OTHERS
from muster.plan import queue, requests
from muster.plan.capacity import Capacity

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.control.kinds import Key
    from muster.control.store import Store
    from muster.plan.model import Admission, Demand, Reference

log = structlog.stdlib.get_logger(__name__)

GATHER = 0.02
"""Seconds for others to come: one count serves all of them, and they are judged side by side."""
LOOK_AGAIN = 3.0
"""Seconds after which room is counted anew while somebody waits: other people's pods go without an event."""
SHARE_OF_COUNTING = 0.2
"""Of the time at most, so that a cluster in which pods end all the time is not listed all the time."""
TRY_AGAIN = 1.0
COUNT_AGE, FOUND_AGE, MISSING_AGE = 1.0, 60.0, 2.0

_ALIVE = "status.phase!=Succeeded,status.phase!=Failed"
_NAMED = (
    CONFIG_MAPS,
    DEFINITIONS,
    LOCAL_QUEUES,
    PRIORITY_CLASSES,
    RESOURCE_CLAIMS,
    RESOURCE_CLAIM_TEMPLATES,
    STORAGE_CLASSES,
    VOLUME_CLAIMS,
)
_KINDS = {kind.kind: kind for kind in _NAMED}


class Admissions:
    """All methods are for one event loop."""

    def __init__(
        self,
        client: Client,
        store: Store,
        enqueue: Callable[[Key], None],
        *,
        everywhere: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`everywhere`: the store has our pods of all namespaces; otherwise all pods are listed."""
        self._client, self._store, self._enqueue, self._now = client, store, enqueue, now
        self._everywhere = everywhere
        self._waiting: dict[Key, Demand] = {}
        self._granted: dict[Key, Demand] = {}
        self._answers: dict[Key, Admission] = {}
        self._counted: tuple[Capacity, float, int] | None = None
        self._not_before = 0.0
        self._known: dict[tuple[str, str, str], tuple[bool, float]] = {}
        self._classes: tuple[list[Object], float] = [], float("-inf")
        self._asked = asyncio.Event()

    def wait(self, key: Key, demand: Demand) -> None:
        """Stand in line with this demand, or go on doing so."""
        if key not in self._granted and key not in self._waiting:
            self._asked.set()
        if key not in self._granted:
            self._waiting[key] = demand

    def leave(self, key: Key) -> None:
        """The pods are made, or are not wanted any more."""
        self._waiting.pop(key, None)
        self._answers.pop(key, None)
        if self._granted.pop(key, None) is not None and self._waiting:
            self._asked.set()

    def leave_all(self) -> None:
        for one in (self._waiting, self._granted, self._answers):
            one.clear()
        self._counted = None

    def answer(self, key: Key) -> Admission | None:
        return self._answers.get(key)

    def room_changed(self) -> None:
        """Room may have come free, or gone."""
        if self._waiting:
            self._asked.set()

    async def run(self) -> None:
        """Answer until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN if self._waiting else None):
                    await self._asked.wait()
            await asyncio.sleep(max(GATHER, self._not_before - time.monotonic()))
            self._asked.clear()
            if not self._waiting:
                continue
            try:
                await self._decide()
            except ApiError as error:
                log.warning("room not counted", error=str(error))
                self._try_again()
            except Exception:
                log.exception("admission failed unexpectedly")
                self._try_again()

    def _try_again(self) -> None:
        self._not_before = time.monotonic() + TRY_AGAIN
        self._asked.set()

    async def _decide(self) -> None:
        priorities = await self._priorities()
        missing = {key: await self._missing(key, demand) for key, demand in list(self._waiting.items())}
        capacity, at, changes = await self._count()
        demands = {key: demand for key, demand in self._waiting.items() if key in missing}
        answers, left = queue.admit(demands, missing, capacity, priorities, self._now())
        self._counted = left, at, changes
        for key, answer in answers.items():
            if answer.granted:
                self._granted[key] = self._waiting.pop(key)
            if self._answers.get(key) != answer:
                self._answers[key] = answer
                self._enqueue(key)

    async def _count(self) -> tuple[Capacity, float, int]:
        """What is left, by a list no older than a second or the last change of room seen.

        Only other people's pods are listed: where most are ours, the list would cost more than all else together.
        """
        changes = self._store.room_changes
        if self._counted is not None:
            _, at, valid = self._counted
            if valid == changes and time.monotonic() - at <= COUNT_AGE:
                return self._counted
        started = time.monotonic()
        others = OTHERS if self._everywhere else ""
        # Pods made while they are listed need not be in the list; those that are watched are known at once.
        before = {} if self._everywhere else self._held()
        pods = (await self._client.list(PODS, label_selector=others, field_selector=_ALIVE, each=_taken)).items
        ours = self._store.pods if self._everywhere else ()
        classes = await self._device_classes()
        capacity = Capacity.count(self._store.nodes.values(), chain(pods, ours), self._now(), classes)
        for demand, domain in (before | self._held()).values():
            capacity = queue.taken(demand, capacity, domain)
        ended = time.monotonic()
        self._not_before = ended + (ended - started) * (1 / SHARE_OF_COUNTING - 1)
        return capacity, started, changes

    def _held(self) -> dict[Key, tuple[Demand, str | None]]:
        """What was granted and is not made yet, and in which domain."""
        counted = ((key, demand) for key, demand in self._granted.items() if demand.uncounted is None)
        return {key: (demand, self._answers[key].domain) for key, demand in counted}

    async def _device_classes(self) -> list[Object]:
        """None where the API server has no such kind, or does not tell."""
        classes, at = self._classes
        if time.monotonic() - at > MISSING_AGE:
            try:
                classes = (await self._client.list(DEVICE_CLASSES)).items
            except (NotFound, Invalid):
                classes = []
            self._classes = classes, time.monotonic()
        return classes

    async def _priorities(self) -> queue.Priorities:
        if all(demand.priority_class is None for demand in self._waiting.values()):
            return queue.Priorities({})
        classes = (await self._client.list(PRIORITY_CLASSES)).items
        default = next((one["value"] for one in classes if one.get("globalDefault")), 0)
        return queue.Priorities({one["metadata"]["name"]: one["value"] for one in classes}, default)

    async def _missing(self, key: Key, demand: Demand) -> list[Reference]:
        """What of it is not there, or may not be looked up: that is this demand's trouble, and nobody else's."""
        found: list[Reference] = []
        for reference in demand.references:
            try:
                if not await self._exists(key.namespace, reference):
                    found.append(reference)
            except Invalid as error:
                found.append(replace(reference, refused=error.message))
        return found

    async def _exists(self, namespace: str, reference: Reference) -> bool:
        kind = _KINDS[reference.kind]
        identity = reference.kind, namespace if kind.namespaced else "", reference.name
        found, at = self._known.get(identity, (False, float("-inf")))
        if time.monotonic() - at > (FOUND_AGE if found else MISSING_AGE):
            found = await self._client.exists(kind, namespace if kind.namespaced else None, reference.name)
            self._known[identity] = found, time.monotonic()
        return found


def _taken(pod: Object) -> Object:
    """What a count needs of somebody else's pod."""
    return {
        "metadata": {"creationTimestamp": pod["metadata"]["creationTimestamp"]},
        "spec": requests.wanted(pod["spec"]),
        "status": {"phase": pod.get("status", {}).get("phase")},
    }
