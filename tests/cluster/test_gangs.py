"""Gangs that another scheduler places: the real ones, from their own sources."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.cluster import schedulers
from tests.cluster.kube import Kube, kubectl, wait_for
from tests.cluster.test_admission import admitted, job, waits

WORKERS = 2
OBSERVED_SECONDS = 6.0


def placed(kube: Kube, name: str) -> int:
    return sum("nodeName" in pod["spec"] for pod in kube.pods(name).values())


def whole(kube: Kube, name: str) -> bool:
    return placed(kube, name) == WORKERS


def waits_for_scheduler(kube: Kube, name: str) -> dict[str, Any]:
    def told() -> dict[str, Any] | None:
        status = kube.status(name)
        return status if status.get("reason") == "WaitingForScheduler" and placed(kube, name) == 0 else None

    return wait_for(f"{name} says that it waits for its scheduler", told, 60)


@pytest.mark.long
@pytest.mark.parametrize("gang", schedulers.RUNNING)
def test_of_two_gangs_that_want_more_than_there_is_one_is_placed_whole_and_the_other_waits_whole(kube, measure, gang):
    begun = time.time()
    kube.apply(job("one", replicas=WORKERS, gpus=4, scheduling={"gang": gang}))
    told = waits(kube, "one", "CustomResourceDefinitionNotFound")
    measure(f"{gang}: not installed: says so after, seconds", time.time() - begun, "at most 5")
    assert told["message"].startswith(
        "spec.scheduling.gang: there is no CustomResourceDefinition podgroups.scheduling."
    )
    assert kube.pods("one") == {}
    kube.apply(job("two", replicas=WORKERS, gpus=4, scheduling={"gang": gang}))
    with schedulers.RUNNING[gang]():
        installed = time.time()
        halves = 0
        wait_for("one of them is placed", lambda: whole(kube, "one") or whole(kube, "two"), 60)
        measure(f"{gang}: installed: a gang is placed after, seconds", time.time() - installed, "")
        first, second = ("one", "two") if whole(kube, "one") else ("two", "one")
        status = waits_for_scheduler(kube, second)
        assert status["phase"] == "Starting"
        assert f"to place {WORKERS} of {WORKERS} workers" in status["message"]
        assert admitted(kube, second)["reason"] == "LeftToScheduler"
        deadline = time.monotonic() + OBSERVED_SECONDS
        while time.monotonic() < deadline:
            assert whole(kube, first)
            halves += placed(kube, second)
        assert halves == 0, "a part of the gang was placed"
        freed = time.time()
        kubectl("delete", "trainingjob", first, "-n", kube.namespace, "--wait=true")
        wait_for("the other's turn has come", lambda: whole(kube, second), 90)
        measure(f"{gang}: room freed: the waiting gang is placed after, seconds", time.time() - freed, "")
        wait_for("its workers run", lambda: kube.status(second).get("reason") != "WaitingForScheduler", 60)
        kubectl("delete", "trainingjob", second, "-n", kube.namespace, "--wait=true")
