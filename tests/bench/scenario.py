"""What is done to the cluster, whoever runs the jobs, and what of it is measured.

Correctness is asserted at every step; times never are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muster.client import PODS
from tests.bench import cluster, jobs, processes
from tests.bench.api import CONNECTIONS, Api
from tests.bench.counts import Latency, Server, latency, server
from tests.bench.jobs import WORKERS
from tests.bench.usage import Usage, usage

if TYPE_CHECKING:
    from tests.bench.processes import Operator
    from tests.bench.seen import Job, Pod, Seen

ALONE, TOGETHER = 10, 100
OBSERVED = 15.0  # seconds of nothing happening

Say = Callable[[str], None]


@dataclass(frozen=True)
class Start:
    """Jobs and pods from nothing to running. Seconds since the first job was sent; `used` counts from there, too."""

    pods: int
    pods_run: float
    jobs_run: float
    server: Server
    used: Usage


@dataclass(frozen=True)
class Loss:
    """Seconds since the first pod failed until all ranks of its job run again, and until all jobs say Running."""

    pods_run: float
    jobs_run: float


@dataclass(frozen=True)
class Calm:
    """Nothing happens: cores that are busy all the same."""

    server: float
    operator: float


@dataclass(frozen=True)
class Resync:
    """A restarted operator and an hour's worth of comparisons."""

    server: Server
    operator: Usage
    writes: int


@dataclass(frozen=True)
class End:
    """`lag`: seconds from when the last pod had ended until the last job had. `operator`: CPU seconds."""

    lag: float
    server: Server
    operator: float


@dataclass(frozen=True)
class Life:
    """All of one run of a system."""

    system: str
    jobs: int
    start: Start
    queue: Latency
    reconcile: Latency
    calm: Calm
    resync: Resync | None
    alone: list[Loss]
    together: Loss
    end: End
    peak: int
    status_writes: float


class Scenario:
    """One cluster, one system, one number of jobs."""

    def __init__(self, api: Api, seen: Seen, number: int, say: Say) -> None:
        self._api, self._seen, self._number, self._say = api, seen, number, say
        self._system = seen.system
        self._limit = 120 + number * 0.5

    async def floor(self) -> Start:
        """The pods of the jobs by the floor, which is told of each job; nobody runs the jobs."""
        self._say(f"floor: {self._number} Services and {self._number * WORKERS} pods")
        async with processes.floor() as floor:
            done = await self._start(lambda: usage(floor.process.pid), floor.tell, until_jobs=False)
        self._say(f"floor: all run after {done.pods_run:.1f} s")
        await self._empty()
        return done

    async def life(self) -> Life:
        name = self._system.name
        self._say(f"{name}: {self._number} jobs of {WORKERS} pods")
        before = await server(self._api)
        async with processes.operator(self._system) as operator:
            metrics = await operator.metrics()
            start = await self._start(lambda: usage(operator.process.pid), lambda _: None, until_jobs=True)
            later = await operator.metrics()
            self._say(f"{name}: all pods run after {start.pods_run:.1f} s, all jobs after {start.jobs_run:.1f} s")
            calm = await observe(self._api, operator)
            peak = usage(operator.process.pid).peak
        resync = await self._resync()
        async with processes.operator(self._system, jobs=self._number) as operator:
            alone = [await self._lose([victim]) for victim in self._victims(min(ALONE, self._number))]
            self._say(f"{name}: a lost pod: {', '.join(f'{loss.pods_run:.2f}' for loss in alone)} s until all run")
            count = min(TOGETHER, self._number)
            together = await self._lose(self._victims(count))
            self._say(f"{name}: {count} lost together: {together.pods_run:.1f} s; jobs: {together.jobs_run:.1f} s")
            await self._seen.quiet()
            end = await self._end(operator, failed=len(alone) + count)
            self._say(f"{name}: the end: the last job {end.lag:.1f} s after the last pod")
            peak = max(peak, resync.operator.peak if resync else 0, usage(operator.process.pid).peak)
        writes = (await server(self._api) - before).writes(f"{self._system.jobs.plural}/status")
        await self._empty()
        return Life(
            system=name,
            jobs=self._number,
            start=start,
            queue=latency(metrics, later, self._system.meters.queue),
            reconcile=latency(metrics, later, self._system.meters.reconcile),
            calm=calm,
            resync=resync,
            alone=alone,
            together=together,
            end=end,
            peak=peak,
            status_writes=writes / self._number,
        )

    async def _start(
        self, used: Callable[[], Usage], tell: Callable[[dict[str, Any]], None], *, until_jobs: bool
    ) -> Start:
        """Create the jobs, as fast as their users could, and wait until all is running that is to run."""
        pods = self._number * WORKERS
        before, used_before = await server(self._api), used()
        begun = time.monotonic()
        waits = [self._until("all pods run", lambda: self._seen.pod_phases["Running"] == pods)]
        if until_jobs:
            waits.append(self._until("all jobs run", lambda: self._seen.job_phases["Running"] == self._number))
        waiting = asyncio.gather(*waits)

        async def create(number: int) -> None:
            tell(await self._api.create(self._system.jobs, self._system.manifest(number)))

        await at_most([lambda number=number: create(number) for number in range(self._number)])
        moments = await waiting
        await self._seen.quiet()
        assert len(self._seen.pods) == pods, f"{len(self._seen.pods)} pods"
        after, used_after = await server(self._api), used()
        return Start(pods, moments[0] - begun, moments[-1] - begun, after - before, used_after - used_before)

    async def _resync(self) -> Resync | None:
        """Begin before the operator does: its start is not to write anything either."""
        if self._system.resync is None:
            return None
        before = await server(self._api)
        used = await self._system.resync(self._number)
        done = await server(self._api) - before
        own = self._system.jobs.plural
        writes = done.writes("pods", "pods/status", "services", "events", own, f"{own}/status")
        assert writes == 0, f"{writes} writes to a converged cluster: {done.requests}"
        assert self._seen.pod_phases["Running"] == self._number * WORKERS
        self._say(f"{self._system.name}: an hour's worth of comparisons: {writes} writes")
        return Resync(done, used, writes)

    def _victims(self, count: int) -> list[Pod]:
        """One pod each of so many jobs, of every rank in turn."""
        chosen = sorted(self._seen.jobs)[:count]
        return [self._seen.newest(job)[number % WORKERS] for number, job in enumerate(chosen)]

    async def _lose(self, victims: list[Pod]) -> Loss:
        jobs_before = [self._seen.jobs[pod.namespace, pod.job] for pod in victims]

        def whole() -> bool:
            return all(self._is_whole_without(pod) for pod in victims)

        def recovered() -> bool:
            return all(self._recovered(pod, job) for pod, job in zip(victims, jobs_before, strict=True))

        begun = time.monotonic()
        await at_most([lambda pod=pod: self._end_pod(pod, 1) for pod in victims])
        pods = await self._until("all ranks of the jobs that lost a pod run", whole)
        running = await self._until("all jobs that lost a pod run again", recovered)
        return Loss(pods - begun, running - begun)

    def _is_whole_without(self, lost: Pod) -> bool:
        """Whether all ranks run, that of the lost pod in another."""
        newest = self._seen.newest((lost.namespace, lost.job))
        return (
            len(newest) == WORKERS
            and newest[lost.rank].uid != lost.uid
            and all(pod.phase == "Running" for pod in newest.values())
        )

    def _recovered(self, lost: Pod, before: Job) -> bool:
        job = self._seen.jobs[lost.namespace, lost.job]
        return job.phase == "Running" and job.starts > before.starts and self._is_whole_without(lost)

    async def _end(self, operator: Operator, failed: int) -> End:
        before, used = await server(self._api), usage(operator.process.pid)
        running = [pod for pod in self._seen.pods.values() if pod.phase == "Running"]
        assert len(running) == self._number * WORKERS, f"{len(running)} pods run"
        made = len(running) + failed

        def over() -> bool:
            assert len(self._seen.pods) <= made, "a pod was replaced that had not failed: was a node taken for lost?"
            return self._seen.job_phases["Succeeded"] == self._number

        succeeded = asyncio.create_task(self._until("all jobs succeed", over))
        await at_most([lambda pod=pod: self._end_pod(pod, 0) for pod in running])
        last = time.monotonic()
        lag = max(0.0, await succeeded - last)
        await self._seen.quiet()
        return End(lag, await server(self._api) - before, (usage(operator.process.pid) - used).cpu)

    async def _end_pod(self, pod: Pod, exit_code: int) -> None:
        """By a write of our own: kwok could end pods too, but only after one more write each that tells it to."""
        status = jobs.ended(self._system.container, exit_code, time.time())
        await self._api.merge_status(PODS, pod.namespace, pod.name, status)

    async def _empty(self) -> None:
        self._say("removing all of it")
        await cluster.empty(self._api, self._seen)

    async def _until(self, what: str, holds: Callable[[], bool]) -> float:
        return await self._seen.until(f"{self._system.name}: {what}", holds, self._limit)


async def observe(api: Api, operator: Operator) -> Calm:
    """What is busy while nothing happens."""
    before, used = await server(api), usage(operator.process.pid)
    await asyncio.sleep(OBSERVED)
    after = await server(api) - before
    return Calm(after.cpu / OBSERVED, (usage(operator.process.pid) - used).cpu / OBSERVED)


async def at_most(calls: list[Callable[[], Awaitable[None]]]) -> None:
    """Make all calls, as many at once as there are connections; in order, so that none waits for long in one."""
    left = iter(calls)

    async def work() -> None:
        for call in left:
            await call()

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
