"""Devices that pods claim: found by the scheduler, prepared by the driver on the node, counted by nobody else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest

from tests.cluster import devices
from tests.cluster.kube import Kube, kubectl, wait_for
from tests.cluster.test_admission import admitted, job, waits

EACH, WORKERS = 2, 3


@pytest.fixture(scope="module")
def there(installed: None) -> Iterator[int]:
    with devices.on_every_node(EACH) as count:
        yield count


def claiming(name: str, template: str, replicas: int = WORKERS, **spec: Any) -> str:
    claims = [{"name": "devices", "resourceClaimTemplateName": template}]
    asked = {"requests": {"cpu": "20m", "memory": "128Mi"}, "claims": claims}
    return job(name, replicas=replicas, **spec | {"resources": asked})


def placed(kube: Kube, name: str) -> int:
    return sum("nodeName" in pod["spec"] for pod in kube.pods(name).values())


def test_each_worker_gets_the_devices_that_it_claims(kube, there, measure):
    kube.apply(claiming("digits", "two-devices"))
    told = waits(kube, "digits", "ResourceClaimTemplateNotFound")
    assert told["message"].startswith("spec.resources.claims[0].resourceClaimTemplateName: there is no")
    assert kube.pods("digits") == {}
    begun = time.time()
    kube.apply(devices.template("two-devices", EACH))
    kube.wait_for_phase("digits", "Running", 60)
    measure("what is claimed is there: the job runs after, seconds", time.time() - begun, "")
    given = devices.claimed(kube)
    assert sorted(given) == sorted(kube.pods("digits"))
    assert sorted(chain(*given.values())) == sorted(
        f"node-{node}/device-{number:02}" for node in range(1, there // EACH + 1) for number in range(EACH)
    )
    kubectl("delete", "trainingjob", "digits", "-n", kube.namespace)
    wait_for("nothing is claimed any more", lambda: kube.list(devices.CLAIM) == [], 60)


@pytest.mark.long
def test_of_two_jobs_that_claim_more_than_there_is_one_has_all_and_the_other_is_taken_back(kube, there, measure):
    kube.apply(devices.template("two-devices", EACH))
    kube.apply(claiming("one", "two-devices"))
    kube.apply(claiming("two", "two-devices"))
    wait_for("one of them is placed", lambda: WORKERS in (placed(kube, "one"), placed(kube, "two")), 60)
    first, second = ("one", "two") if placed(kube, "one") else ("two", "one")
    begun = time.time()
    told = waits(kube, second, "TakenBack", limit=120)
    measure("devices that are not there: the gang is taken back after, seconds", time.time() - begun, "60")
    assert "found no place" in told["message"]
    assert told["message"].endswith("the next try is after 60 s")
    wait_for("its pods go", lambda: kube.pods(second) == {}, 30)
    assert placed(kube, first) == WORKERS
    kubectl("delete", "trainingjob", first, "-n", kube.namespace, "--wait=true")
    wait_for("the other's turn has come", lambda: placed(kube, second) == WORKERS, 120)
    assert admitted(kube, second)["status"] == "True"
