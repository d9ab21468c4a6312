"""What is done to the cluster, first by the floor and then by Muster, and what of it is measured.

Correctness is asserted at every step; times never are.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muster.client import PODS
from muster.control.kinds import TRAINING_JOBS
from tests.bench import cluster, jobs, processes
from tests.bench.api import CONNECTIONS, Api
from tests.bench.counts import Latency, Server, latency, server
from tests.bench.jobs import WORKERS
from tests.bench.processes import Operator, Usage, usage
from tests.bench.waiting import until

if TYPE_CHECKING:
    from tests.bench.seen import Pod, Seen

COMPARISONS = 20  # an hour's worth, one every 180 seconds
RESYNC_SECONDS = 1.0
ALONE, TOGETHER = 10, 100
OBSERVED = 15.0  # seconds of nothing happening
OURS = ("pods", "pods/status", "services", "events", "trainingjobs", "trainingjobs/status")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Start:
    """Jobs and pods from nothing to running. Seconds since the first job was sent; `used` counts from there, too."""

    pods_run: float
    jobs_run: float
    server: Server
    used: Usage


@dataclass(frozen=True)
class Loss:
    """Seconds since the first pod failed until all have running successors, and until all jobs say Running."""

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
    operator: float
    peak: int
    writes: int


@dataclass(frozen=True)
class End:
    """`lag`: seconds from when the last pod had ended until the last job had. `server` and `operator`: CPU seconds."""

    lag: float
    server: Server
    operator: float


@dataclass(frozen=True)
class Life:
    """All of one run of Muster."""

    start: Start
    queue: Latency
    reconcile: Latency
    calm: Calm
    resync: Resync
    alone: list[Loss]
    together: Loss
    end: End
    peak: int
    status_writes: float


class Scenario:
    """One cluster, one number of jobs."""

    def __init__(self, api: Api, seen: Seen, number: int, say: Say) -> None:
        self._api, self._seen, self._number, self._say = api, seen, number, say
        self._limit = 120 + number * 0.5

    async def floor(self) -> Start:
        self._say(f"floor: {self._number} Services and {self._number * WORKERS} pods")
        async with processes.floor() as process:
            assert process.stdin is not None

            def tell(job: dict[str, Any]) -> None:
                process.stdin.write(json.dumps(job).encode() + b"\n")  # type: ignore[union-attr]

            done = await self._start(lambda: usage(process), tell, until_jobs=False)
        self._say(f"floor: all run after {done.pods_run:.1f} s")
        await self._empty()
        return done

    async def muster(self) -> Life:
        before = await server(self._api)
        async with processes.operator() as operator:
            metrics = await operator.metrics()
            start = await self._start(lambda: usage(operator.process), lambda _: None, until_jobs=True)
            later = await operator.metrics()
            self._say(
                f"Muster: all pods run after {start.pods_run:.1f} s, all jobs say so after {start.jobs_run:.1f} s"
            )
            calm = await self._calm(operator)
            peak = usage(operator.process).peak
        resync = await self._resync()
        async with processes.operator(jobs=self._number) as operator:
            alone = [await self._lose([victim]) for victim in self._victims(min(ALONE, self._number))]
            self._say(f"a lost pod: {', '.join(f'{loss.pods_run:.2f}' for loss in alone)} s until its successor runs")
            count = min(TOGETHER, self._number)
            together = await self._lose(self._victims(count))
            self._say(f"{count} lost together: {together.pods_run:.1f} s; their jobs: {together.jobs_run:.1f} s")
            await self._seen.quiet()
            end = await self._end(operator, failed=len(alone) + count)
            self._say(f"the end: the last job {end.lag:.1f} s after the last pod")
            peak = max(peak, resync.peak, usage(operator.process).peak)
        writes = (await server(self._api) - before).writes("trainingjobs/status")
        await self._empty()
        return Life(
            start=start,
            queue=latency(metrics, later, "muster_queue_latency_seconds"),
            reconcile=latency(metrics, later, "muster_reconcile_seconds"),
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
        before, used_before = await server(self._api), used()
        begun = time.monotonic()
        waits = [self._until("all pods run", lambda: self._seen.pod_phases["Running"] == self._number * WORKERS)]
        if until_jobs:
            waits.append(self._until("all jobs run", lambda: self._seen.job_phases["Running"] == self._number))
        waiting = asyncio.gather(*waits)

        async def create(number: int) -> None:
            tell(await self._api.create(TRAINING_JOBS, jobs.manifest(number)))

        await _at_most([lambda number=number: create(number) for number in range(self._number)])
        moments = await waiting
        await self._seen.quiet()
        assert len(self._seen.pods) == self._number * WORKERS, f"{len(self._seen.pods)} pods"
        after, used_after = await server(self._api), used()
        return Start(
            moments[0] - begun,
            moments[-1] - begun,
            after - before,
            Usage(used_after.cpu - used_before.cpu, used_after.peak),
        )

    async def _calm(self, operator: Operator) -> Calm:
        before, used = await server(self._api), usage(operator.process)
        await asyncio.sleep(OBSERVED)
        after = await server(self._api) - before
        return Calm(after.cpu / OBSERVED, (usage(operator.process).cpu - used.cpu) / OBSERVED)

    async def _resync(self) -> Resync:
        """Begin before the operator does: its start is not to write anything either."""
        before = await server(self._api)
        async with processes.operator("--resync-seconds", str(RESYNC_SECONDS), jobs=self._number) as operator:
            used, compared = usage(operator.process), await _comparisons(operator)

            async def enough() -> bool:
                return await _comparisons(operator) >= compared + COMPARISONS

            await until(f"{COMPARISONS} comparisons", enough, self._limit)
            after = usage(operator.process)
        done = await server(self._api) - before
        writes = done.writes(*OURS)
        assert writes == 0, f"{writes} writes to a converged cluster: {done.requests}"
        assert self._seen.pod_phases["Running"] == self._number * WORKERS
        self._say(f"{COMPARISONS} comparisons: {writes} writes")
        return Resync(done, after.cpu - used.cpu, after.peak, writes)

    def _victims(self, count: int) -> list[Pod]:
        """One pod each of so many jobs, of every rank in turn."""
        chosen = sorted(self._seen.jobs)[:count]
        return [self._seen.newest(job)[number % WORKERS] for number, job in enumerate(chosen)]

    async def _lose(self, victims: list[Pod]) -> Loss:
        def replaced() -> bool:
            return all(self._successor_runs(pod) for pod in victims)

        def recovered() -> bool:
            return all(self._recovered(pod) for pod in victims)

        begun = time.monotonic()
        await _at_most([lambda pod=pod: self._end_pod(pod, 1) for pod in victims])
        pods = await self._until("all lost pods have successors that run", replaced)
        running = await self._until("all jobs that lost a pod run again", recovered)
        return Loss(pods - begun, running - begun)

    def _successor_runs(self, lost: Pod) -> bool:
        now = self._seen.newest((lost.namespace, lost.job)).get(lost.rank)
        return now is not None and now.attempt > lost.attempt and now.phase == "Running"

    def _recovered(self, lost: Pod) -> bool:
        job = self._seen.jobs[lost.namespace, lost.job]
        return job.phase == "Running" and job.attempt > lost.attempt and self._successor_runs(lost)

    async def _end(self, operator: Operator, failed: int) -> End:
        before, used = await server(self._api), usage(operator.process)
        running = [pod for pod in self._seen.pods.values() if pod.phase == "Running"]
        assert len(running) == self._number * WORKERS, f"{len(running)} pods run"
        made = len(running) + failed

        def over() -> bool:
            assert len(self._seen.pods) <= made, "a pod was replaced that had not failed: was a node taken for lost?"
            return self._seen.job_phases["Succeeded"] == self._number

        succeeded = asyncio.create_task(self._until("all jobs succeed", over))
        await _at_most([lambda pod=pod: self._end_pod(pod, 0) for pod in running])
        last = time.monotonic()
        lag = max(0.0, await succeeded - last)
        await self._seen.quiet()
        return End(lag, await server(self._api) - before, usage(operator.process).cpu - used.cpu)

    async def _end_pod(self, pod: Pod, exit_code: int) -> None:
        """By a write of our own: kwok could end pods too, but only after one more write each that tells it to."""
        await self._api.merge_status(PODS, pod.namespace, pod.name, jobs.ended(exit_code, time.time()))

    async def _empty(self) -> None:
        self._say("removing all of it")
        await cluster.empty(self._api, self._seen)

    async def _until(self, what: str, holds: Callable[[], bool]) -> float:
        return await self._seen.until(what, holds, self._limit)


async def _comparisons(operator: Operator) -> int:
    """How often everything was compared: nodes come last, and in one piece."""
    metrics = await operator.metrics()
    labels = frozenset({("verb", "list"), ("resource", "nodes"), ("code", "200")})
    return int(metrics.get(("muster_api_requests_total", labels), 0))


async def _at_most(calls: list[Callable[[], Awaitable[None]]]) -> None:
    """Make all calls, as many at once as there are connections; in order, so that none waits for long in one."""
    left = iter(calls)

    async def work() -> None:
        for call in left:
            await call()

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
