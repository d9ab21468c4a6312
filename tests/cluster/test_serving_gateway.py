"""Canaries by a gateway: exactly so many of the requests that come through it go to the new revision."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.cluster import deployments, gateway, jobs
from tests.cluster.conftest import namespace
from tests.cluster.kube import Kube, kubectl, wait_for
from tests.cluster.load import Load

if TYPE_CHECKING:
    from tests.cluster.conftest import Measure

WEIGHTS = (20, 50)
COUNTED = 500
"""Requests in each step."""
POINTS = 3.0


def canary(over: int = 0) -> dict[str, Any]:
    """Steps that last until the test says that so many are over."""
    pauses = [0 if number < over else 3600 for number in range(len(WEIGHTS))]
    steps = [{"weight": weight, "pauseSeconds": pause} for weight, pause in zip(WEIGHTS, pauses, strict=True)]
    return {"steps": steps, "gateway": {"name": gateway.NAME}}


@pytest.fixture(scope="module")
def two_models(installed: None) -> Iterator[Kube]:
    """A namespace in which two jobs have left their models, which differ."""
    with namespace() as kube, gateway.api():
        short = jobs.example("digits.yaml").replace("epochs: 20", "epochs: 2")
        kube.apply(short)
        kube.wait_for_phase("digits", "Succeeded", 120)
        other = short.replace("epochs: 2", "epochs: 1").replace("path: digits", "path: other")
        kube.apply(other.replace("name: digits", "name: other"))
        kube.wait_for_phase("other", "Succeeded", 120)
        yield kube
        kubectl("delete", "modeldeployments", "--all", "-n", kube.namespace, "--timeout=60s")  # its route with it


@pytest.fixture(scope="module")
def under_load(two_models: Kube) -> Iterator[Load]:
    """Two groups, asked through the gateway."""
    kube = two_models
    with gateway.running(kube) as address:
        kube.apply(yaml.safe_dump(deployments.manifest("digits", canary=canary())))
        deployments.wait_until_done(kube)
        wait_for("the gateway has taken the route", lambda: weights(kube) and routed(kube) == "True", 60)
        with Load.start(kube, "digits", path="", program="load_gateway.py", host=address) as load:
            yield load


def routed(kube: Kube) -> str:
    return deployments.condition(deployments.status(kube), "Routed")


def weights(kube: Kube) -> dict[str, int]:
    """By revision, as the gateway has them."""
    return dict((deployments.status(kube).get("route") or {}).get("weights") or {})


def version(kube: Kube, job: str) -> str:
    """By which answers name the model of the job."""
    return str(kube.status(job)["model"]["sha256"][:12])


def serve(kube: Kube, job: str, **spec: Any) -> str:
    """Roll the job's model out; returns the revision."""
    before = deployments.status(kube)["revision"]["target"]
    deployments.patch(kube, json.dumps({"model": {"fromTrainingJob": job}} | spec))
    done = wait_for("it is seen", lambda: (r := deployments.status(kube)["revision"])["target"] != before and r, 30)
    return str(done["target"])


def share(kube: Kube, load: Load, of: str, step: int) -> float:
    """The per cent of the requests that this version answered, all in this step of the rollout."""

    def begun() -> bool:
        rollout = deployments.status(kube)["rollout"]
        return rollout.get("canaryStep") == step and "canaryStepSince" in rollout

    wait_for(f"step {step} has begun", begun, 90)
    time.sleep(3)  # what was given its way before has been answered, and Traefik has done what it said
    before = load.counted()
    load.go_on(COUNTED)
    after = load.counted()
    new = after["versions"].get(of, 0) - before["versions"].get(of, 0)
    return 100 * new / (after["answered"] - before["answered"])


@pytest.mark.long
def test_without_the_gateway_api_or_the_gateway_nothing_is_rolled_out_and_the_status_says_why(trained: Kube):
    trained.apply(yaml.safe_dump(deployments.manifest("waits", replicas=1, canary=canary())))
    try:
        status = deployments.wait_until_done(trained, "waits")
        before = {status["revision"]["current"]}
        assert deployments.condition(status, "Routed") == "False", "it serves all the same"
        deployments.patch(trained, '{"rollout": {"restart": "now"}}', "waits")
        lacking = deployments.wait_for_phase(trained, "RollingOut", "waits", reason="GatewayApiMissing")
        assert "spec.canary.gateway: the cluster has no HTTPRoutes" in lacking["message"]
        with gateway.api():
            waiting = deployments.wait_for_phase(trained, "RollingOut", "waits", reason="WaitingForGateway")
            assert "Gateway inference has not taken HTTPRoute waits" in waiting["message"]
            assert trained.get(gateway.ROUTE, "waits") is not None
            assert deployments.revisions(trained, "waits") == before
            deployments.patch(trained, '{"canary": null}', "waits")
            deployments.wait_until_done(trained, "waits")
            wait_for("the route is gone", lambda: trained.get(gateway.ROUTE, "waits") is None, 30)
    finally:
        kubectl("delete", "modeldeployment", "waits", "-n", trained.namespace)


@pytest.mark.long
def test_each_step_has_exactly_its_share_of_the_requests_and_none_fails(under_load: Load, measure: Measure):
    load, kube = under_load, under_load.kube
    new = version(kube, "other")
    assert weights(kube) == {deployments.status(kube)["revision"]["current"]: 100}
    revision = serve(kube, "other")
    measured = {}
    for step, wanted in enumerate(WEIGHTS, 1):
        measured[wanted] = share(kube, load, new, step)
        operators_replaced_change_nothing(kube)
        deployments.patch(kube, json.dumps({"canary": canary(over=step)}))
    for wanted, found in measured.items():
        measure(f"by the gateway to the new revision of 2 groups, weight {wanted}: per cent", found, f"{wanted}")
    deployments.wait_until_done(kube, limit=120)
    wait_for("all of it is the new one's", lambda: weights(kube) == {revision: 100}, 30)
    wait_for("the old pods are gone", lambda: deployments.revisions(kube) == {revision}, 60)
    load.go_on(100)
    assert load.counted()["failures"] == []
    assert measured == {20: pytest.approx(20, abs=POINTS), 50: pytest.approx(50, abs=POINTS)}
    wait_for("one Service of a revision is left", lambda: services(kube) == {f"digits-{revision}"}, 30)


def operators_replaced_change_nothing(kube: Kube) -> None:
    """In the middle of a step."""
    route, pods = kube.get(gateway.ROUTE, "digits"), deployments.living(kube).keys()
    assert route is not None
    rollout = deployments.status(kube)["rollout"]
    before = {name: rollout[name] for name in ("startedAt", "canaryStep", "canaryStepSince")}
    kubectl("delete", "pods", "-n", "muster-system", "--all", "--grace-period=0", "--force")
    written = deployments.status(kube)["measuredAt"]
    wait_for("another has looked", lambda: deployments.status(kube)["measuredAt"] != written, 60)
    after = kube.get(gateway.ROUTE, "digits")
    assert after is not None
    assert after["metadata"]["generation"] == route["metadata"]["generation"]
    assert deployments.status(kube)["rollout"].items() >= before.items()
    assert deployments.living(kube).keys() == pods


def services(kube: Kube) -> set[str]:
    return {one["metadata"]["name"] for one in kube.list(("v1", "Service"), "muster.dev/revision")}


@pytest.mark.long
def test_a_revision_that_does_not_keep_its_limits_gets_nothing_at_once_and_none_fails(
    under_load: Load, measure: Measure
):
    load, kube = under_load, under_load.kube
    deployments.wait_until_done(kube)
    good, slow = deployments.status(kube)["revision"]["current"], version(kube, "digits")
    limits = {"steps": [{"weight": 40, "pauseSeconds": 120}], "analysis": {"maxLatencyP99Milliseconds": 1000}}
    serve(kube, "digits", canary=limits, batching={"maxBatchSize": 64, "maxDelayMilliseconds": 2000})
    wait_for("it is asked", lambda: len(weights(kube)) == 2, 60)
    wait_for("it is given up", lambda: "failed" in deployments.status(kube)["revision"], 90)
    begun = time.time()
    wait_for("it gets nothing", lambda: weights(kube) == {good: 100}, 10)
    measure("given up: the gateway has taken up that it gets nothing after, seconds", time.time() - begun, "at once")
    time.sleep(4)  # what was on its way takes two seconds to be answered, and Traefik gathers for two
    before = load.counted()["versions"][slow]
    load.go_on(COUNTED)
    assert load.counted()["versions"][slow] == before
    wait_for("its pods are gone", lambda: deployments.revisions(kube) == {good}, 60)
    load.go_on(100)
    assert load.counted()["failures"] == []
