"""A trained model is served through everything that happens to it, under load from inside the cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.cluster import deployments, jobs
from tests.cluster.kube import Kube, kubectl, local_cluster, wait_for
from tests.cluster.load import LIMIT, LOADS_NODE, Load
from tests.cluster.nodes import keep_workers_off_the_leader, kill_process, node_of_the_leader, ready

if TYPE_CHECKING:
    from tests.cluster.conftest import Measure


WRONG = """
apiVersion: v1
kind: Pod
metadata: {name: tampering}
spec:
  restartPolicy: Never
  securityContext: {runAsUser: 0}
  containers:
    - name: tampering
      image: localhost/muster-worker:dev
      imagePullPolicy: Never
      command:
        - python3
        - -c
        - |
          # Intact by its checksums, and yet not what was trained.
          import pathlib, shutil
          from safetensors.torch import load_file, save_file
          from muster_worker.train.durable import read_json, record_of, write_json
          directory = pathlib.Path("/models/wrong")
          shutil.copytree("/models/digits/model", directory)
          weights = directory / "model.safetensors"
          save_file({name: -tensor for name, tensor in load_file(weights).items()}, weights)
          weights.chmod(0o644)
          description = read_json(directory / "model.json")
          description["program"] = None
          description["files"][weights.name] = record_of(weights)
          write_json(directory / "model.json", description)
      volumeMounts: [{name: models, mountPath: /models}]
  volumes: [{name: models, persistentVolumeClaim: {claimName: models}}]
"""


@pytest.fixture(scope="module")
def under_load(trained: Kube) -> Iterator[Load]:
    """Two groups that answer, and a pod that asks them all the time."""
    trained.apply(jobs.example("serve.yaml"))
    deployments.wait_until_done(trained)
    with Load.start(trained, "digits") as load:
        yield load


@pytest.fixture
def served(under_load: Load) -> Kube:
    """Two groups answer, whatever an earlier test has left."""
    kube = under_load.kube
    if deployments.status(kube)["phase"] != "Ready":
        kubectl("replace", "-n", kube.namespace, "-f", "-", text=jobs.example("serve.yaml"))
    assert deployments.wait_until_done(kube)["ready"] == "2/2"
    return kube


@pytest.mark.long
def test_a_rolling_restart_fails_no_request(served: Kube, load: Load, measure: Measure):
    before = deployments.pods(served).keys()
    begun = time.monotonic()
    deployments.patch(served, '{"rollout": {"restart": "2026-11-26"}}')
    status = deployments.wait_until_done(served)
    measure("rolling restart of 2 groups", time.monotonic() - begun, "0 failed")
    wait_for("the old pods are gone", lambda: not before & deployments.pods(served).keys(), 40)
    measure("and until the last old pod had left", time.monotonic() - begun, "")
    load.go_on(50)
    assert load.failures() == []
    assert status["restart"]["observed"] == "2026-11-26"
    assert "completedAt" in status["restart"]
    assert "failovers" not in status, "whoever was to leave was not lost"
    assert (status["rollout"]["requests"] > 100, status["rollout"]["failedRequests"]) == (True, 0)


@pytest.mark.long
def test_scaling_up_and_down_fails_no_request(served: Kube, load: Load, measure: Measure):
    begun = time.monotonic()
    kubectl("scale", "modeldeployment/digits", "--replicas=4", "-n", served.namespace)
    deployments.wait_until_done(served)
    measure("scaled from 2 to 4 groups", time.monotonic() - begun, "0 failed")
    kubectl("scale", "modeldeployment/digits", "--replicas=2", "-n", served.namespace)
    deployments.wait_until_done(served)
    wait_for("two pods are left", lambda: len(deployments.pods(served)) == 2, 40)
    load.go_on(50)
    assert load.failures() == []


@pytest.mark.long
def test_five_edits_within_a_second_end_as_the_last_and_fail_no_request(served: Kube, load: Load, measure: Measure):
    begun = time.monotonic()
    for size in (2, 4, 8, 16, 64):
        deployments.patch(served, f'{{"batching": {{"maxBatchSize": {size}}}}}')
    deployments.wait_until_done(served)
    measure("five edits of 2 groups", time.monotonic() - begun, "0 failed")
    for pod in deployments.living(served).values():
        assert "--max-batch-size=64" in pod["spec"]["containers"][0]["args"]
    load.go_on(300)
    assert load.failures() == []


@pytest.mark.long
def test_a_revision_that_does_not_load_is_rolled_back_and_fails_no_request(served: Kube, load: Load, measure: Measure):
    before = deployments.status(served)["revision"]["current"]
    begun = time.monotonic()
    wrong = {"claimName": "models", "path": "digits"}  # where the checkpoints are, not the model
    deployments.patch(served, json.dumps({"model": {"fromTrainingJob": None, "persistentVolumeClaim": wrong}}))
    status = deployments.wait_for_phase(served, "RolledBack")
    measure("a model that does not load: rolled back after", time.monotonic() - begun, "0 failed")
    assert "model.json" in status["message"], status["message"]
    assert [deployments.condition(status, kind) for kind in ("Servable", "UpToDate", "Ready")] == [
        "True",
        "False",
        "False",
    ]
    wait_for("its pods are gone", lambda: deployments.revisions(served) == {before}, 40)
    assert deployments.status(served)["readyReplicas"] == 2
    deployments.patch(served, json.dumps({"model": {"fromTrainingJob": "digits", "persistentVolumeClaim": None}}))
    assert deployments.wait_until_done(served)["revision"] == {"current": before, "target": before}
    assert load.failures() == []


def test_a_model_that_loads_and_answers_wrong_is_rolled_back_and_nobody_gets_a_wrong_answer(
    served: Kube, load: Load, measure: Measure
):
    served.apply(WRONG)
    made = ("wait", "-n", served.namespace, "pod/tampering", "--for=jsonpath={.status.phase}=Succeeded")
    kubectl(*made, "--timeout=60s")
    before = deployments.status(served)["revision"]["current"]
    begun = time.monotonic()
    wrong = {"claimName": "models", "path": "wrong"}
    deployments.patch(served, json.dumps({"model": {"fromTrainingJob": None, "persistentVolumeClaim": wrong}}))
    status = deployments.wait_for_phase(served, "RolledBack")
    measure("a model that answers wrong: rolled back after", time.monotonic() - begun, "0 failed")
    assert "does not compute what it computed when it was published" in status["message"], status["message"]
    wait_for("its pods are gone", lambda: deployments.revisions(served) == {before}, 40)
    deployments.patch(served, json.dumps({"model": {"fromTrainingJob": "digits", "persistentVolumeClaim": None}}))
    deployments.wait_until_done(served)
    assert load.failures() == []


@pytest.mark.long
def test_a_canary_that_is_too_slow_is_given_up_and_a_good_one_goes_on(served: Kube, load: Load, measure: Measure):
    before = deployments.status(served)["revision"]["current"]
    canary = {"steps": [{"weight": 50, "pauseSeconds": 10}], "analysis": {"maxLatencyP99Milliseconds": 1000}}
    begun = time.monotonic()
    slow = {"maxBatchSize": 64, "maxDelayMilliseconds": 2000}
    deployments.patch(served, json.dumps({"canary": canary, "batching": slow}))
    status = deployments.wait_for_phase(served, "RolledBack")
    measure("a canary that is too slow: given up after, seconds", time.monotonic() - begun, "0 failed")
    assert "maxLatencyP99Milliseconds" in status["message"], status["message"]
    assert status["rollout"]["canaryStep"] == 1
    wait_for("its pod is gone", lambda: deployments.revisions(served) == {before}, 40)
    begun = time.monotonic()
    deployments.patch(served, json.dumps({"batching": {"maxBatchSize": 8, "maxDelayMilliseconds": 1}}))
    step = deployments.wait_for_phase(served, "RollingOut", reason="Canary")
    assert step["message"].startswith("step 1 of 1: ")
    status = deployments.wait_until_done(served)
    measure("a good canary of one step of 10 s: done after, seconds", time.monotonic() - begun, "0 failed")
    assert status["revision"]["current"] != before
    deployments.patch(served, '{"canary": null}')
    load.go_on(50)
    assert load.failures() == []


@pytest.mark.long
@pytest.mark.parametrize("replicas", [2, 1])
def test_a_drained_node_fails_no_request(served: Kube, load: Load, measure: Measure, replicas: int):
    kubectl("scale", "modeldeployment/digits", f"--replicas={replicas}", "-n", served.namespace)
    deployments.wait_until_done(served)
    node = next(iter(deployments.living(served).values()))["spec"]["nodeName"]
    begun = time.monotonic()
    try:
        drain = kubectl(
            *("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=90s"),
            "--pod-selector=muster.dev/model-deployment=digits",
        )
        measure(f"a node with one of {replicas} groups drained", time.monotonic() - begun, "0 failed")
        assert "drained" in drain.stdout
        deployments.wait_until_done(served)
        assert all(pod["spec"]["nodeName"] != node for pod in deployments.living(served).values())
        load.go_on(50)
        assert load.failures() == []
    finally:
        kubectl("uncordon", node)
        kubectl("scale", "modeldeployment/digits", "--replicas=2", "-n", served.namespace)


@pytest.mark.long
@pytest.mark.parametrize(
    ("process", "what", "goal"),
    [("the server", "serving process killed", "those inside it"), (None, "container killed", "")],
    ids=["serving process", "container"],
)
def test_a_killed_process_is_started_again_where_it_was(
    served: Kube, load: Load, measure: Measure, process: str | None, what: str, goal: str
):
    name, pod = next(
        (name, pod)
        for name, pod in deployments.living(served).items()
        if deployments.lost(served, name, died=True) is None
    )
    killed = time.time()
    kill_process(pod["metadata"]["uid"], process)
    done = wait_for("it answers again", lambda: deployments.replaced(served, name, died=True), 30)
    measure(f"{what}: told and over after, seconds", time.time() - killed, "at most 5")
    assert (done["cause"], done["pod"], done["exitCode"]) == ("ProcessDied", name, 137)
    measure(f"{what}: without an answer, seconds", float(done["replacedSeconds"]), "")
    load.go_on(150)
    failures = load.failures()
    measure(f"{what}: requests failed, of 50 a second", len(failures), goal)
    assert all(failure["at"] - killed < 4 for failure in failures), failures
    assert deployments.pods(served).keys() >= {name}


def test_a_deleted_pod_is_replaced_and_fails_no_request(served: Kube, load: Load, measure: Measure):
    name = next(iter(deployments.living(served)))
    begun = time.monotonic()
    kubectl("delete", "pod", name, "-n", served.namespace, "--wait=false")
    done = wait_for("it is replaced", lambda: deployments.replaced(served, name), 60)
    measure("pod deleted: another answers after, seconds", time.monotonic() - begun, "at most 8")
    assert (done["cause"], done["pod"]) == ("PodDeleted", name)
    wait_for("it is gone", lambda: name not in deployments.pods(served), 40)
    load.go_on(50)
    assert load.failures() == []


@pytest.fixture
def away(served: Kube, load: Load) -> tuple[str, str]:
    """A pod and its node, which is neither that of the leading operator nor that of the load."""
    with keep_workers_off_the_leader():
        deployments.patch(served, json.dumps({"rollout": {"restart": f"spread anew at {time.time()}"}}))
        deployments.wait_until_done(served)
        wait_for("all are on their new nodes", lambda: len(deployments.pods(served)) == 2, 60)
        load.begin_anew()
        leader = node_of_the_leader()
    where = {name: pod["spec"]["nodeName"] for name, pod in deployments.living(served).items()}
    return next((name, node) for name, node in where.items() if node not in {leader, LOADS_NODE})


@pytest.mark.long
def test_an_unreachable_node_is_left_and_its_group_replaced(
    served: Kube, load: Load, away: tuple[str, str], measure: Measure
):
    name, node = away
    begun = time.time()
    local_cluster("node", "fail", node)
    try:
        entry = wait_for("it is told", lambda: deployments.lost(served, name), 30)
        told = time.time()
        done = wait_for("another answers", lambda: deployments.replaced(served, name), 60)
        answers = time.time()
        time.sleep(LIMIT)  # until the last of those is counted that nobody answered
        load.go_on(100)
        failures = load.failures()
    finally:
        local_cluster("node", "heal", node)
    assert (entry["cause"], entry["pod"], entry["node"]) == ("Unreachable", name, node)
    measure("node unreachable: told after, seconds", told - begun, "at most 5")
    measure("node unreachable: another answers after, seconds", answers - begun, "10 after there is a place")
    measure("node unreachable: as the status says, seconds", float(done["replacedSeconds"]), "")
    last = max((one["sent"] for one in failures if one["way"] == "new"), default=begun)
    measure("node unreachable: last request lost on a new connection sent after, seconds", last - begun, "at most 5")
    measure("node unreachable: requests failed, of 50 a second", len(failures), "")
    assert_it_is_back(served, node)


@pytest.mark.long
def test_the_group_on_a_node_whose_kubelet_hangs_is_replaced(
    served: Kube, load: Load, away: tuple[str, str], measure: Measure
):
    name, node = away
    begun = time.time()
    local_cluster("node", "hang", node)
    try:
        done = wait_for("another answers", lambda: deployments.replaced(served, name), 120)
        load.go_on(100)
    finally:
        local_cluster("node", "heal", node)
    measure("kubelet hung: another answers after, seconds", time.time() - begun, "")
    measure("kubelet hung: as the status says, seconds", float(done["replacedSeconds"]), "")
    assert (done["cause"], done["node"]) == ("NodeLost", node)
    assert_it_is_back(served, node)
    measure("kubelet hung: requests failed, of 50 a second", len(load.failures()), "0")


def assert_it_is_back(served: Kube, node: str) -> None:
    """Nothing is left of the pod that was lost with the node."""
    wait_for("the node is back", lambda: ready(node) == "True", 120)
    wait_for("two pods are left", lambda: len(deployments.pods(served)) == 2, 120)
    assert deployments.wait_until_done(served)["ready"] == "2/2"
    assert all(pod["spec"]["nodeName"] != node for pod in deployments.living(served).values())


@pytest.mark.long
def test_operators_killed_in_the_middle_of_a_rollout(served: Kube, load: Load):
    before = deployments.pods(served).keys()
    deployments.patch(served, '{"rollout": {"restart": "again"}}')
    for _ in range(4):
        kubectl("delete", "pods", "-n", "muster-system", "--all", "--grace-period=0", "--force")
        time.sleep(2)
    deployments.wait_until_done(served, limit=120)
    wait_for("the old pods are gone", lambda: not before & deployments.pods(served).keys(), 40)
    assert len(deployments.pods(served)) == 2
    assert load.failures() == []


@pytest.mark.long
def test_without_room_for_a_surge_it_waits_and_says_why_or_goes_in_place(trained: Kube):
    whole = {"limits": {"nvidia.com/gpu": 4}, "requests": {"cpu": "100m", "memory": "256Mi"}}
    trained.apply(yaml.safe_dump(deployments.manifest("full", replicas=3, resources=whole)))
    before = deployments.wait_until_done(trained, "full")["revision"]["current"]
    try:
        deployments.patch(trained, '{"rollout": {"restart": "now"}}', "full")
        waiting = wait_for(
            "it says why it waits",
            lambda: (
                "no node takes" in deployments.status(trained, "full")["message"]
                and deployments.status(trained, "full")
            ),
            30,
        )
        assert "maxUnavailable" in waiting["message"]
        assert (waiting["phase"], waiting["readyReplicas"]) == ("RollingOut", 3)
        assert [deployments.condition(waiting, kind) for kind in ("Servable", "UpToDate", "Ready")] == [
            "True", "False", "Unknown",
        ]  # fmt: skip
        deployments.patch(trained, '{"rollout": {"maxUnavailable": 1, "restart": "now"}}', "full")
        fewest = 3
        while (status := deployments.status(trained, "full"))["phase"] != "Ready":
            fewest = min(fewest, status["readyReplicas"])
        assert fewest >= 2
        assert status["revision"]["current"] != before
    finally:
        kubectl("delete", "modeldeployment", "full", "-n", trained.namespace)


@pytest.mark.long
def test_suspended_it_keeps_its_service_and_comes_back(served: Kube):
    deployments.patch(served, '{"suspend": true}')
    status = deployments.wait_for_phase(served, "Suspended", reason="Suspended")
    assert (deployments.condition(status, "Servable"), status["replicas"]) == ("False", 0)
    assert served.get(("v1", "Service"), "digits") is not None
    before = status.get("failovers", [])
    deployments.patch(served, '{"suspend": false}')
    assert deployments.wait_until_done(served).get("failovers", []) == before
