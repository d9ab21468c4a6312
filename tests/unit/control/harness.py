"""Operators with a planner small enough to see through, run against the fake API server."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from muster.client import KubernetesClient, Limits
from muster.control.kinds import OURS, TRAINING_JOBS, Controlled, Planner
from muster.control.lease import LeaseTimes
from muster.control.observability import Metrics
from muster.control.operator import Operator, Options
from muster.plan.model import Event, Observed, Plan, Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.unit.control.fake_api import FakeApi

OURS_AS_LABELS = dict([OURS.split("=")])
SETTINGS = Settings(worker_image="worker")
QUICK = LeaseTimes(lasts=2, writes=1.5, renew_every=0.2, call=0.5)


async def until(condition: Callable[[], Any], what: str = "", limit: float = 15.0) -> None:
    """Wait for the condition, in vain at most so many seconds."""
    try:
        async with asyncio.timeout(limit):
            while not condition():  # noqa: ASYNC110 - conditions are about what a server was sent
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {limit:g} s: {what or condition}") from None


def job(name: str = "digits", namespace: str = "research", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "muster.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"replicas": 3} | spec,
    }


def node(name: str, ready: str = "True") -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": ready}]
    return {"metadata": {"name": name}, "status": {"conditions": conditions, "allocatable": {"cpu": "4"}}}


def owned(resource: Any, kind: str, name: str, **rest: Any) -> dict[str, Any]:
    meta = resource["metadata"]
    owner = {name: resource[name] for name in ("apiVersion", "kind")}
    owner |= {"name": meta["name"], "uid": meta["uid"], "controller": True}
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": meta["namespace"],
            "labels": OURS_AS_LABELS | {"muster.dev/training-job": meta["name"]},
            "ownerReferences": [owner],
        },
        **rest,
    }


def pods_and_a_service(observed: Observed, settings: Settings, now: float) -> Plan:
    """As many pods as asked for, a Service, and in the status how many there are; one event at the start."""
    resource = observed.resource
    name, wanted = resource["metadata"]["name"], resource["spec"]["replicas"]
    there = {pod["metadata"]["name"] for pod in observed.pods}
    names = [f"{name}-{rank}" for rank in range(wanted)]
    service = owned(resource, "Service", name, spec={"clusterIP": "None"})
    status = {"pods": len(there), "phase": "Running" if len(there) >= wanted else "Starting"}
    return Plan(
        applies=() if observed.services else (service,),
        creates=tuple(owned(resource, "Pod", one, spec={}) for one in names if one not in there),
        status=None if status == resource.get("status") else status,
        events=() if resource.get("status") else (Event("Normal", "Started", "it begins"),),
    )


@dataclass
class Counting:
    """A planner that remembers what it was asked."""

    planner: Planner
    asked: list[Observed] = field(default_factory=list)

    def __call__(self, observed: Observed, settings: Settings, now: float) -> Plan:
        self.asked.append(observed)
        return self.planner(observed, settings, now)


@contextlib.asynccontextmanager
async def operator(
    api: FakeApi,
    planner: Planner = pods_and_a_service,
    *,
    who: str = "a",
    wait: bool = True,
    names: Callable[[Any], tuple[tuple[str, str], ...]] = lambda _: (),
    **options: Any,
) -> AsyncIterator[Operator]:
    """An operator, run as `muster run` does, until the block ends."""
    metrics = Metrics()
    client = KubernetesClient(
        api.configuration(who), observer=metrics.called, limits=Limits(call=0.5, attempts=4, pauses=(0.01, 0.05, 0.1))
    )
    chosen = Options(settings=SETTINGS, identity=who, http_port=0, workers=4, take_signals=False, lease_times=QUICK)
    one = Operator(replace(chosen, **options), [Controlled(TRAINING_JOBS, planner, names)], client, metrics)
    task = asyncio.create_task(one.run())
    try:
        if wait:
            await until(lambda: one.synced or task.done(), "the operator knows the cluster")
        yield one
        if task.done():
            task.result()
    finally:
        one.stopping.set()
        await asyncio.wait([task], timeout=20)
        if not task.done():
            for other in asyncio.all_tasks():
                other.print_stack()
        assert task.done(), "the operator does not stop"
        await client.close()


def create(api: FakeApi, plural: str, manifest: dict[str, Any]) -> dict[str, Any]:
    made = api.storage.create(plural, manifest["metadata"].get("namespace", ""), manifest)
    api.wake()
    return made


def status_of(api: FakeApi, name: str = "digits") -> dict[str, Any]:
    return api.storage.objects["trainingjobs", "research", name].get("status", {})
