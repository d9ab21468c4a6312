"""What the benchmark sees of the cluster: it watches jobs and pods and notes the moment at which something holds."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from muster.client import PODS, Kind
from tests.bench.waiting import until

if TYPE_CHECKING:
    from tests.bench.api import Api
    from tests.bench.systems.system import System

QUIET = 2.0  # seconds without any event after which everybody is taken to be done
_QUIET_LIMIT = 120.0


@dataclass(frozen=True, slots=True)
class Pod:
    namespace: str
    name: str
    uid: str
    job: str
    rank: int
    attempt: int
    phase: str
    address: str | None


@dataclass(frozen=True, slots=True)
class Job:
    """`starts` counts whatever shows that its pods were started anew: attempts, and ends of the phase Running."""

    phase: str
    starts: int


@dataclass
class Seen:
    """All of one system's jobs and pods. Jobs are named by (namespace, name)."""

    system: System
    jobs: dict[tuple[str, str], Job] = field(default_factory=dict)
    pods: dict[tuple[str, str], Pod] = field(default_factory=dict)
    of_job: dict[tuple[str, str], dict[str, Pod]] = field(default_factory=lambda: defaultdict(dict))
    by_address: dict[str, Pod] = field(default_factory=dict)
    job_phases: Counter[str] = field(default_factory=Counter)
    pod_phases: Counter[str] = field(default_factory=Counter)
    last_event: float = field(default_factory=time.monotonic)
    told_of_new: list[Callable[[Pod], None]] = field(default_factory=list)
    """Are called with each pod when it is seen first."""

    _interruptions: Counter[tuple[str, str]] = field(default_factory=Counter)
    _waiting: list[tuple[Callable[[], bool], asyncio.Future[float]]] = field(default_factory=list)

    async def until(self, what: str, holds: Callable[[], bool], limit: float) -> float:
        """Return when (monotonic seconds) it first held; asked at every event, so it has to be cheap."""
        if holds():
            return time.monotonic()
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        entry = (holds, future)
        self._waiting.append(entry)
        try:
            return await asyncio.wait_for(future, limit)
        except TimeoutError:
            raise AssertionError(
                f"{what}: not within {limit:.0f} s; jobs: {dict(self.job_phases)}, pods: {dict(self.pod_phases)}"
            ) from None
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    async def quiet(self) -> None:
        """Return once nothing has happened for a while."""

        async def is_quiet() -> bool:
            return time.monotonic() - self.last_event > QUIET

        await until("nothing happens any more", is_quiet, _QUIET_LIMIT)

    def newest(self, job: tuple[str, str]) -> dict[int, Pod]:
        """The pod of the highest attempt of every rank."""
        found: dict[int, Pod] = {}
        for pod in self.of_job[job].values():
            if pod.rank not in found or found[pod.rank].attempt < pod.attempt:
                found[pod.rank] = pod
        return found

    def take(self, kind: Kind, manifest: dict[str, Any], *, gone: bool = False) -> None:
        take = self._take_pod if kind is PODS else self._take_job
        take(manifest, gone=gone)
        self.last_event = time.monotonic()
        for holds, future in list(self._waiting):
            if future.done():
                continue
            try:
                if holds():
                    future.set_result(self.last_event)
            except AssertionError as broken:
                future.set_exception(broken)

    def replace(self, kind: Kind, manifests: list[dict[str, Any]]) -> None:
        """Take it that these are all there are of the kind."""
        listed = {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in manifests}
        known = self.pods if kind is PODS else self.jobs
        for key in [key for key in known if key not in listed]:
            self._drop_pod(key) if kind is PODS else self._drop_job(key)
        for manifest in manifests:
            self.take(kind, manifest)

    def _take_job(self, manifest: dict[str, Any], *, gone: bool) -> None:
        key = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        before = self.jobs.get(key)
        self._drop_job(key)
        if gone:
            self._interruptions.pop(key, None)
            return
        told = self.system.told(manifest)
        if before is not None and before.phase == "Running" != told.phase:
            self._interruptions[key] += 1
        self.jobs[key] = Job(told.phase, told.attempt + self._interruptions[key])
        self.job_phases[told.phase] += 1

    def _take_pod(self, manifest: dict[str, Any], *, gone: bool) -> None:
        meta, status = manifest["metadata"], manifest.get("status", {})
        key = meta["namespace"], meta["name"]
        before = self._drop_pod(key)
        if gone:
            return
        member = self.system.member(meta["labels"])
        phase = "Terminating" if "deletionTimestamp" in meta else self.system.phase(manifest)
        pod = Pod(*key, meta["uid"], *member, phase, status.get("podIP"))
        self.pods[key] = self.of_job[pod.namespace, pod.job][pod.name] = pod
        self.pod_phases[pod.phase] += 1
        if pod.address is not None and pod.phase in {"Running", "Ready"}:
            self.by_address[pod.address] = pod
        if before is None or before.uid != pod.uid:
            for tell in self.told_of_new:
                tell(pod)

    def _drop_job(self, key: tuple[str, str]) -> None:
        before = self.jobs.pop(key, None)
        if before is not None:
            self.job_phases[before.phase] -= 1

    def _drop_pod(self, key: tuple[str, str]) -> Pod | None:
        before = self.pods.pop(key, None)
        if before is None:
            return None
        self.pod_phases[before.phase] -= 1
        del self.of_job[before.namespace, before.job][before.name]
        if before.address is not None and self.by_address.get(before.address) is before:
            del self.by_address[before.address]
        return before


@contextlib.asynccontextmanager
async def watching(api: Api, system: System) -> AsyncIterator[Seen]:
    """While this lasts, what is seen is up to date."""
    seen = Seen(system)
    watched = ((system.jobs, ""), (PODS, system.label))
    tasks = [asyncio.create_task(_follow(api, kind, seen, selector)) for kind, selector in watched]
    try:
        yield seen
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


async def _follow(api: Api, kind: Kind, seen: Seen, selector: str) -> None:
    """List and watch, again and again: the server ends the watches of those who are slow to read."""
    while True:
        listing = await api.list(kind, selector=selector)
        seen.replace(kind, listing["items"])
        async for event in api.watch(kind, selector, listing["metadata"]["resourceVersion"]):
            if event["type"] == "ERROR":
                break
            seen.take(kind, event["object"], gone=event["type"] == "DELETED")
