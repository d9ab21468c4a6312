"""Kubernetes' own autoscaler, fed by the real metrics-server, says how many groups there are, and Muster makes them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.cluster import beside, deployments, metrics_server
from tests.cluster.kube import Kube, kubectl, wait_for
from tests.cluster.load import Load

if TYPE_CHECKING:
    from tests.cluster.conftest import Measure

NAME = "scaled"
AUTOSCALER = ("autoscaling/v2", "HorizontalPodAutoscaler")
MUCH = 100.0
"""Requests a second that take about 110 thousandths of a CPU, where 25 are wanted of a group."""
LITTLE = 5.0


@pytest.fixture(scope="module")
def scaled(trained: Kube) -> Iterator[Kube]:
    """One group that answers and has little to do, which the autoscaler knows."""
    slot = beside.slot()
    if slot is None:
        pytest.skip("the API server of this cluster cannot reach a metrics-server on this machine")
    with metrics_server.running(slot.control_plane_address):
        trained.apply(yaml.safe_dump(_manifest()))
        deployments.wait_until_done(trained, NAME)
        wait_for("its CPU is known", lambda: _current(trained) is not None, 120)
        yield trained
        kubectl("delete", "modeldeployment", NAME, "-n", trained.namespace)


def _manifest() -> dict[str, Any]:
    made = deployments.manifest(
        NAME,
        resources={"requests": {"cpu": "50m", "memory": "256Mi"}},
        autoscaling={"minReplicas": 1, "maxReplicas": 3, "metric": "cpu", "target": "50"},
    )
    del made["spec"]["replicas"]
    return made


def _autoscaler(kube: Kube) -> dict[str, Any]:
    found = kube.get(AUTOSCALER, NAME)
    assert found is not None
    return found


def _current(kube: Kube) -> int | None:
    """The utilisation in per cent, as the autoscaler knows it."""
    told = (_autoscaler(kube).get("status") or {}).get("currentMetrics") or []
    return next((one["resource"]["current"].get("averageUtilization") for one in told if "resource" in one), None)


def _rescales(kube: Kube) -> int:
    """How often the autoscaler says that it changed spec.replicas."""
    events = [one for one in kube.list(("v1", "Event")) if one["involvedObject"]["name"] == NAME]
    return sum(one.get("count") or 1 for one in events if one["reason"] == "SuccessfulRescale")


def _answered(kube: Kube, pod: str) -> float:
    """Requests by HTTP that a pod has answered, as it tells Prometheus."""
    told = kubectl("get", "--raw", f"/api/v1/namespaces/{kube.namespace}/pods/{pod}:8080/proxy/metrics").stdout
    found = re.search(r'^muster_serve_requests_total\{code="200",protocol="http"\} (.+)$', told, re.MULTILINE)
    return float(found[1]) if found is not None else 0.0


@pytest.mark.long
def test_under_load_it_gets_more_groups_and_after_it_fewer_and_no_request_fails(scaled: Kube, measure: Measure):
    before = deployments.generation(scaled, NAME)
    assert deployments.status(scaled, NAME)["ready"] == "1/1"

    with Load.start(scaled, NAME, rate=MUCH) as load:
        begun = time.monotonic()
        wait_for("more groups are wanted", lambda: _autoscaler(scaled)["status"]["desiredReplicas"] > 1, 120)
        measure("autoscaled by cpu: wants more groups after, seconds of load", time.monotonic() - begun, "")
        status = deployments.wait_for_phase(scaled, "Ready", NAME, 120, readyReplicas=3)
        measure("autoscaled by cpu: 3 groups answer after, seconds of load", time.monotonic() - begun, "0 failed")
        assert (status["ready"], status["updatedReplicas"]) == ("3/3", 3)
        pods = deployments.living(scaled, NAME)
        wait_for("every group answers", lambda: all(_answered(scaled, pod) > 0 for pod in pods), 30)
        assert re.search(r"cpu: \d+%/50%", kubectl("get", "hpa", NAME, "-n", scaled.namespace).stdout)
        load.go_on(200)
        assert load.failures() == []

    with Load.start(scaled, NAME, rate=LITTLE) as load:
        # By default it waits for five minutes. Muster says nothing of how fast it scales, and leaves what others say.
        at_once = '{"spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}}}'
        kubectl("patch", "hpa", NAME, "-n", scaled.namespace, "--type=merge", "--patch", at_once)
        begun = time.monotonic()
        status = deployments.wait_for_phase(scaled, "Ready", NAME, 150, replicas=1)
        measure(
            "autoscaled by cpu: 1 group is left after, seconds of little load", time.monotonic() - begun, "0 failed"
        )
        wait_for("one pod is left", lambda: len(deployments.pods(scaled, NAME)) == 1, 40)
        load.go_on(20)
        assert load.failures() == []
    assert "failovers" not in status, "whoever was to leave was not lost"

    assert _autoscaler(scaled)["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 0
    changes = deployments.generation(scaled, NAME) - before
    assert changes >= 2
    wait_for("nobody but the autoscaler has changed the spec", lambda: _rescales(scaled) == changes, 10)


def test_without_autoscaling_in_the_spec_the_autoscaler_goes_and_the_groups_stay(scaled: Kube):
    deployments.patch(scaled, '{"autoscaling": null}', NAME)
    wait_for("it is gone", lambda: scaled.get(AUTOSCALER, NAME) is None, 20)
    kubectl("scale", f"modeldeployment/{NAME}", "--replicas=2", "-n", scaled.namespace)
    assert deployments.wait_until_done(scaled, NAME)["ready"] == "2/2"
    assert scaled.get(AUTOSCALER, NAME) is None
