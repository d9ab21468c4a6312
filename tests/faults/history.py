"""What happens to jobs at random, and what of it may not be seen.

- No pod of a rank is made while another of that rank may still run.
- Once nothing happens any more, each job has all of its workers, or none where it is suspended, and says so; of a job
  that was deleted nothing is left.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from muster.client import PODS
from muster.control.kinds import TRAINING_JOBS
from tests.bench import jobs
from tests.bench.api import Api, Refused
from tests.bench.jobs import WORKERS
from tests.bench.systems.muster import MUSTER, manifest

if TYPE_CHECKING:
    from tests.bench.seen import Pod, Seen

ALIVE = {"Pending", "Running", "Terminating"}
EVENTS = {"create": 3, "delete": 1, "suspend": 2, "resume": 3, "fail a pod": 6, "delete a pod": 5}
"""How often each happens beside the others."""


@dataclass
class History:
    """Of at most `most` jobs. `wanted`: those that are there, by number, and whether each is suspended."""

    api: Api
    seen: Seen
    most: int
    random: random.Random
    wanted: dict[int, bool] = field(default_factory=dict)
    happened: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.seen.told_of_new.append(self._look_at_rivals)

    async def begin(self, count: int) -> None:
        for number in range(count):
            await self._create(number)

    async def event(self) -> None:
        """One; nothing where it does not apply to the job or pod that it fell upon."""
        (what,) = self.random.choices(list(EVENTS), list(EVENTS.values()))
        number = self.random.randrange(self.most)
        try:
            if await self._happens(what, number):
                self.happened[what] += 1
        except Refused as error:
            if error.status != 404:  # a pod that is on its way out may be gone by now
                raise

    def unsettled(self) -> list[str]:
        """Of each job that is not as wanted, how it is."""
        return [said for number in range(self.most) if (said := self._unsettled(number))]

    async def _happens(self, what: str, number: int) -> bool:
        there, suspended = number in self.wanted, self.wanted.get(number, False)
        match what:
            case "create" if not there and not self._is_left(number):
                await self._create(number)
            case "delete" if there:
                del self.wanted[number]
                await self.api.delete(TRAINING_JOBS, **jobs.metadata(number))
            case "suspend" | "resume" if there and suspended == (what == "resume"):
                self.wanted[number] = not suspended
                patch = {"spec": {"suspend": not suspended}}
                await self.api.merge(TRAINING_JOBS, **jobs.metadata(number), patch=patch)
            case "fail a pod" if pod := self._any_pod("Running"):
                exit_code = self.random.choice((1, 3, 137))
                status = jobs.ended(MUSTER.container, exit_code, time.time())
                await self.api.merge_status(PODS, pod.namespace, pod.name, status)
            case "delete a pod" if pod := self._any_pod("Running", "Pending"):
                await self.api.delete(PODS, pod.name, pod.namespace)
            case _:
                return False
        return True

    async def _create(self, number: int) -> None:
        made: dict[str, Any] = manifest(number)
        made["spec"]["failurePolicy"] = {"maxRestarts": 10_000}
        self.wanted[number] = False
        await self.api.create(TRAINING_JOBS, made)

    def _any_pod(self, *phases: str) -> Pod | None:
        found = [pod for pod in self.seen.pods.values() if pod.phase in phases]
        return self.random.choice(found) if found else None

    def _is_left(self, number: int) -> bool:
        """Whether the one before of that name is not gone yet."""
        return self._key(number) in self.seen.jobs or bool(self.seen.of_job[self._key(number)])

    def _unsettled(self, number: int) -> str:
        pods = self.seen.of_job[self._key(number)].values()
        alive = sorted((pod.rank, pod.name, pod.phase) for pod in pods if pod.phase in ALIVE)
        job = self.seen.jobs.get(self._key(number))
        phase = job.phase if job is not None else "gone"
        if number not in self.wanted:
            is_settled = job is None and not pods
        elif self.wanted[number]:
            is_settled = phase == "Suspended" and not alive
        else:
            ranks = [rank for rank, _, pod_phase in alive if pod_phase == "Running"]
            is_settled = phase == "Running" and ranks == list(range(WORKERS)) and len(alive) == WORKERS
        return "" if is_settled else f"{self._key(number)} is {phase}, with {alive}"

    def _look_at_rivals(self, pod: Pod) -> None:
        for other in self.seen.of_job[pod.namespace, pod.job].values():
            if other.rank == pod.rank and other.uid != pod.uid and other.phase in ALIVE:
                self.broken.append(f"{pod.namespace}/{pod.name} was made while {other.name} was {other.phase}")

    def _key(self, number: int) -> tuple[str, str]:
        meta = jobs.metadata(number)
        return meta["namespace"], meta["name"]
