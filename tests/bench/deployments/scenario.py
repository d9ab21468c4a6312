"""What is done to the cluster, and what of it is measured. Correctness is asserted at every step; times never are."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muster.client import PODS
from tests.bench import cluster, processes
from tests.bench.counts import Latency, Server, latency, server
from tests.bench.deployments.resources import GROUPS, LARGE, SIZE, SURGE, manifest
from tests.bench.scenario import Calm, Start, at_most, observe
from tests.bench.usage import Usage, usage

if TYPE_CHECKING:
    from tests.bench.api import Api
    from tests.bench.processes import Operator
    from tests.bench.seen import Pod, Seen

DELETED = 50

Say = Callable[[str], None]
Key = tuple[str, str]


@dataclass(frozen=True)
class Rollout:
    """A rolling restart: seconds until all groups are new ones, the fewest that answered, the most there were."""

    seconds: float
    fewest: int
    most: int
    server: Server
    operator: float


@dataclass(frozen=True)
class Deletion:
    """Seconds since the first pod was deleted until all groups are whole again, and until the status says so."""

    pods: float
    status: float


@dataclass(frozen=True)
class Life:
    """All of one run of Muster."""

    start: Start
    queue: Latency
    reconcile: Latency
    calm: Calm
    restarted: int
    rollout: Rollout
    of_one: Deletion
    of_many: Deletion
    peak: int


class Scenario:
    """One cluster and one number of deployments."""

    def __init__(self, api: Api, seen: Seen, number: int, say: Say) -> None:
        self._api, self._seen, self._number, self._say = api, seen, number, say
        self._limit = 120 + number * 0.5

    async def floor(self) -> Start:
        """What the deployments consist of, by the floor; nobody looks after them."""
        async with processes.floor() as floor:
            done = await self._start(lambda: usage(floor.process.pid), floor.tell, until_told=False)
        self._say(f"floor: all pods ready after {done.pods_run:.1f} s")
        await cluster.empty(self._api, self._seen)
        return done

    async def life(self) -> Life:
        system = self._seen.system
        async with processes.operator(system) as operator:
            metrics = await operator.metrics()
            start = await self._start(lambda: usage(operator.process.pid), lambda _: None, until_told=True)
            later = await operator.metrics()
            self._say(f"Muster: all pods ready after {start.pods_run:.1f} s, all deployments {start.jobs_run:.1f} s")
            calm = await observe(self._api, operator)
            peak = usage(operator.process.pid).peak
        before = await server(self._api)
        async with processes.operator(system, jobs=self._number) as operator:
            restarted = (await server(self._api) - before).writes("pods", "pods/status", "services", "events", *_OWN)
            self._say(f"Muster: an operator that starts writes {restarted} times")
            assert restarted == 0, f"{restarted} writes to a converged cluster"
            large = await self._large()
            rollout = await self._rollout(large, operator)
            of_one = await self._delete([self._member(large, group) for group in range(0, LARGE, LARGE // DELETED)])
            self._say(f"Muster: {DELETED} pods of one deployment deleted: all ready again after {of_one.pods:.2f} s")
            chosen = sorted(key for key in self._seen.jobs if key != large)[:DELETED]
            of_many = await self._delete([self._member(key, 0) for key in chosen])
            self._say(f"Muster: {len(chosen)} pods of as many: all ready again after {of_many.pods:.2f} s")
            peak = max(peak, usage(operator.process.pid).peak)
        await cluster.empty(self._api, self._seen)
        return Life(
            start=start,
            queue=latency(metrics, later, system.meters.queue),
            reconcile=latency(metrics, later, system.meters.reconcile),
            calm=calm,
            restarted=restarted,
            rollout=rollout,
            of_one=of_one,
            of_many=of_many,
            peak=peak,
        )

    async def _start(
        self, used: Callable[[], Usage], tell: Callable[[dict[str, Any]], None], *, until_told: bool
    ) -> Start:
        """Create them as fast as their users could, and wait until all is ready."""
        pods = self._number * GROUPS * SIZE
        before, used_before = await server(self._api), used()
        begun = time.monotonic()
        waits = [self._until("all pods are ready", lambda: self._seen.pod_phases["Ready"] == pods)]
        if until_told:
            waits.append(self._until("all say Ready", lambda: self._seen.job_phases["Ready"] == self._number))
        waiting = asyncio.gather(*waits)

        async def create(number: int) -> None:
            tell(await self._api.create(self._seen.system.jobs, manifest(number)))

        await at_most([lambda number=number: create(number) for number in range(self._number)])
        moments = await waiting
        await self._seen.quiet()
        assert len(self._seen.pods) == pods, f"{len(self._seen.pods)} pods"
        return Start(
            pods, moments[0] - begun, moments[-1] - begun, await server(self._api) - before, used() - used_before
        )

    async def _large(self) -> Key:
        made = manifest(self._number, LARGE)
        await self._api.create(self._seen.system.jobs, made)
        key = made["metadata"]["namespace"], made["metadata"]["name"]
        await self._until("the large one is ready", lambda: self._is_ready(key) and self._answering(key) == LARGE)
        await self._seen.quiet()
        return key

    async def _rollout(self, key: Key, operator: Operator) -> Rollout:
        """Watch that at every event enough groups answer, and that there are no more than there may be."""
        before, used = await server(self._api), usage(operator.process.pid)
        attempts = self._attempts(key)
        fewest, most = LARGE, LARGE

        def renewed() -> bool:
            nonlocal fewest, most
            answering = self._answering(key)
            there = {(pod.rank // SIZE, pod.attempt) for pod in self._there(key)}
            fewest, most = min(fewest, answering), max(most, len(there))
            assert answering >= LARGE, f"{answering} groups answer of {LARGE}"
            assert len(there) <= LARGE + SURGE, f"{len(there)} groups, of {LARGE} and {SURGE} at most"
            new = all(self._attempts(key)[group] > attempts[group] for group in attempts)
            return new and len(there) == LARGE and self._is_ready(key)

        begun = time.monotonic()
        restart = {"spec": {"rollout": {"restart": "now"}}}
        await self._api.merge(self._seen.system.jobs, *key, restart)
        seconds = await self._until("all groups are new", renewed) - begun
        self._say(f"Muster: a rolling restart of {LARGE} groups: {seconds:.1f} s")
        await self._seen.quiet()
        operators = (usage(operator.process.pid) - used).cpu
        return Rollout(seconds, fewest, most, await server(self._api) - before, operators)

    async def _delete(self, victims: list[Pod]) -> Deletion:
        """Every group that lost a pod gets all of its pods anew, and no other group any."""
        owners = {(pod.namespace, pod.job) for pod in victims}
        hit = {(pod.namespace, pod.job, pod.rank // SIZE) for pod in victims}
        before = {key: self._attempts(key) for key in owners}

        def whole() -> bool:
            return all(self._answering(key) == len(before[key]) for key in owners) and all(
                (self._attempts(key)[group] > attempt) == ((*key, group) in hit)
                for key in owners
                for group, attempt in before[key].items()
            )

        begun = time.monotonic()
        await at_most([lambda pod=pod: self._api.delete(PODS, pod.name, pod.namespace) for pod in victims])
        pods = await self._until("all groups that lost a pod are whole", whole)
        told = await self._until("their deployments are ready", lambda: all(map(self._is_ready, owners)))
        await self._seen.quiet()
        assert whole(), "a group was made anew that had lost nothing"
        return Deletion(pods - begun, told - begun)

    def _there(self, key: Key) -> list[Pod]:
        return [pod for pod in self._seen.of_job[key].values() if pod.phase != "Terminating"]

    def _answering(self, key: Key) -> int:
        """Return how many groups have a leader that is ready, and run all pods that were made together with it."""
        there = [(pod.rank // SIZE, pod.attempt, pod) for pod in self._there(key)]
        run = Counter((group, attempt) for group, attempt, pod in there if pod.phase in {"Running", "Ready"})
        ready = {(group, attempt) for group, attempt, pod in there if pod.rank % SIZE == 0 and pod.phase == "Ready"}
        return len({group for group, attempt in ready if run[group, attempt] == SIZE})

    def _attempts(self, key: Key) -> dict[int, int]:
        """Return the newest of each group."""
        found: dict[int, int] = {}
        for pod in self._there(key):
            found[pod.rank // SIZE] = max(pod.attempt, found.get(pod.rank // SIZE, 0))
        return found

    def _member(self, key: Key, group: int) -> Pod:
        """Return the last pod of the group, which takes no requests itself."""
        return max((pod for pod in self._there(key) if pod.rank // SIZE == group), key=lambda pod: pod.rank)

    def _is_ready(self, key: Key) -> bool:
        there = self._seen.jobs.get(key)
        return there is not None and there.phase == "Ready"

    async def _until(self, what: str, holds: Callable[[], bool]) -> float:
        return await self._seen.until(f"Muster: {what}", holds, self._limit)


_OWN = ("poddisruptionbudgets", "controllerrevisions", "modeldeployments", "modeldeployments/status")
