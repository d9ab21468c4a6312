"""Groups of two pods, each of which computes a half of every batch, through everything that happens to them."""

from __future__ import annotations

import json
import time
from collections import defaultdict
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

NAME = "pairs"


@pytest.fixture(scope="module")
def under_load(trained: Kube) -> Iterator[Load]:
    """Two groups that answer, and a pod that asks them all the time."""
    trained.apply(yaml.safe_dump(deployments.manifest(NAME, group={"size": 2})))
    status = deployments.wait_until_done(trained, NAME)
    assert (status["ready"], len(deployments.pods(trained, NAME))) == ("2/2", 4)
    with Load.start(trained, NAME) as load:
        yield load
    kubectl("delete", "modeldeployment", NAME, "-n", trained.namespace)


@pytest.fixture
def served(under_load: Load) -> Kube:
    """Two groups answer, whatever an earlier test has left."""
    assert deployments.wait_until_done(under_load.kube, NAME)["ready"] == "2/2"
    return under_load.kube


def groups(kube: Kube) -> dict[str, dict[str, dict[str, str]]]:
    """Of each group and attempt at it that was not told to leave: its pods by name, with their nodes and revisions."""
    found: dict[str, dict[str, dict[str, str]]] = defaultdict(dict)
    for name, pod in deployments.living(kube, NAME).items():
        labels = pod["metadata"]["labels"]
        about = {"node": pod["spec"].get("nodeName", ""), "revision": labels["muster.dev/revision"]}
        found[f"{labels['muster.dev/group']}-{labels['muster.dev/attempt']}"][name] = about
    return found


def member_of(kube: Kube) -> str:
    """A pod that does not lead, of whose processes nothing is told yet."""
    names = (name for group in groups(kube).values() for name in group if name.endswith("-1") and name.count("-") == 4)
    return next(name for name in names if deployments.lost(kube, name, NAME, died=True) is None)


@pytest.mark.long
def test_a_rolling_restart_of_groups_fails_no_request(served: Kube, load: Load, measure: Measure):
    before = deployments.pods(served, NAME).keys()
    begun = time.monotonic()
    deployments.patch(served, '{"rollout": {"restart": "2026-11-26"}}', NAME)
    while deployments.status(served, NAME).get("restart", {}).get("completedAt") is None:
        assert all(len({pod["revision"] for pod in group.values()}) == 1 for group in groups(served).values())
        assert time.monotonic() - begun < 120
        time.sleep(0.2)
    measure("groups of 2 pods: rolling restart of 2 groups", time.monotonic() - begun, "0 failed")
    wait_for("the old pods are gone", lambda: not before & deployments.pods(served, NAME).keys(), 40)
    load.go_on(50)
    assert load.failures() == []


@pytest.mark.parametrize(
    ("process", "what"),
    [("rank 1", "process of a member"), (None, "container of a member")],
    ids=["process", "container"],
)
def test_a_killed_member_is_started_again_and_fails_no_request(
    served: Kube, load: Load, measure: Measure, process: str | None, what: str
):
    name = member_of(served)
    leader = name.removesuffix("-1")
    killed = time.time()
    kill_process(deployments.pods(served, NAME)[name]["metadata"]["uid"], process)
    where = leader if process else name
    done = wait_for("it answers again", lambda: deployments.replaced(served, where, NAME, died=True), 30)
    measure(f"{what} killed: told and over after, seconds", time.time() - killed, "at most 5")
    measure(f"{what} killed: not whole for, seconds", float(done["replacedSeconds"]), "")
    assert done["cause"] == "ProcessDied"
    load.go_on(150)
    measure(f"{what} killed: requests failed, of 50 a second", len(load.failures()), "0")
    assert load.failures() == []
    assert deployments.pods(served, NAME).keys() >= {name, leader}


def test_a_killed_leader_is_started_again_where_it_was(served: Kube, load: Load, measure: Measure):
    name = member_of(served).removesuffix("-1")
    before = deployments.status(served, NAME).get("failovers", [])
    killed = time.time()
    kill_process(deployments.pods(served, NAME)[name]["metadata"]["uid"], "the server")

    def over() -> dict[str, str] | None:
        entry = deployments.replaced(served, name, NAME, died=True)
        return entry if entry not in before else None

    done = wait_for("it answers again", over, 30)
    measure("process of a leader killed: told and over after, seconds", time.time() - killed, "at most 5")
    measure("process of a leader killed: not whole for, seconds", float(done["replacedSeconds"]), "")
    load.go_on(150)
    failures = load.failures()
    measure("process of a leader killed: requests failed, of 50 a second", len(failures), "those inside it")
    assert all(failure["at"] - killed < 4 for failure in failures), failures


def test_a_deleted_member_takes_its_group_along_and_fails_no_request(served: Kube, load: Load, measure: Measure):
    name = member_of(served)
    begun = time.monotonic()
    kubectl("delete", "pod", name, "-n", served.namespace, "--wait=false")
    done = wait_for("the group is replaced", lambda: deployments.replaced(served, name, NAME), 60)
    measure("member deleted: another group answers after, seconds", time.monotonic() - begun, "at most 8")
    assert done["cause"] == "PodDeleted"
    gone = {name, name.removesuffix("-1")}
    wait_for("both are gone", lambda: not gone & deployments.pods(served, NAME).keys(), 40)
    load.go_on(50)
    assert load.failures() == []


@pytest.mark.long
def test_a_drained_node_fails_no_request(served: Kube, load: Load, measure: Measure):
    node = next(pod["node"] for group in groups(served).values() for name, pod in group.items())
    begun = time.monotonic()
    try:
        drain = kubectl(
            *("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s"),
            f"--pod-selector=muster.dev/model-deployment={NAME}",
        )
        measure("groups of 2 pods: a node drained", time.monotonic() - begun, "0 failed")
        assert "drained" in drain.stdout
        deployments.wait_until_done(served, NAME)
        assert all(pod["node"] != node for group in groups(served).values() for pod in group.values())
        load.go_on(50)
        assert load.failures() == []
    finally:
        kubectl("uncordon", node)


@pytest.mark.long
def test_a_group_with_a_pod_on_an_unreachable_node_is_left_and_replaced(served: Kube, load: Load, measure: Measure):
    with keep_workers_off_the_leader():
        deployments.patch(served, json.dumps({"rollout": {"restart": f"spread anew at {time.time()}"}}), NAME)
        deployments.wait_until_done(served, NAME)
        wait_for("all are on their new nodes", lambda: len(deployments.pods(served, NAME)) == 4, 60)
        load.begin_anew()
        leader = node_of_the_leader()
    where = [{pod["node"] for pod in group.values()} for group in groups(served).values()]
    assert [len(nodes) for nodes in where] == [1, 1], "there is room for all of a group on one node"
    assert where[0] != where[1], "and a node for each group"
    node = next(
        pod["node"]
        for group in groups(served).values()
        for pod in group.values()
        if pod["node"] not in {leader, LOADS_NODE}
    )
    begun = time.time()
    local_cluster("node", "fail", node)
    try:
        status = wait_for("it is told", lambda: _new_failovers(served, begun), 30)
        told = time.time()
        wait_for("all answer again", lambda: _all_replaced(served, begun), 60)
        answers = time.time()
        time.sleep(LIMIT)
        load.go_on(100)
        failures = load.failures()
    finally:
        local_cluster("node", "heal", node)
    assert {entry["node"] for entry in status} == {node}
    measure("groups of 2 pods, node unreachable: told after, seconds", told - begun, "at most 5")
    measure("groups of 2 pods, node unreachable: all answer again after, seconds", answers - begun, "10")
    last = max((one["sent"] for one in failures if one["way"] == "new"), default=begun)
    measure("groups of 2 pods, node unreachable: last request lost sent after, seconds", last - begun, "at most 5")
    measure("groups of 2 pods, node unreachable: requests failed, of 50 a second", len(failures), "")
    wait_for("the node is back", lambda: ready(node) == "True", 120)
    wait_for("four pods are left", lambda: len(deployments.pods(served, NAME)) == 4, 120)
    assert deployments.wait_until_done(served, NAME)["ready"] == "2/2"


def _new_failovers(kube: Kube, since: float) -> list[dict[str, str]]:
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since))
    return [entry for entry in deployments.status(kube, NAME).get("failovers", []) if entry["at"] >= at]


def _all_replaced(kube: Kube, since: float) -> bool:
    return all("replacedSeconds" in entry for entry in _new_failovers(kube, since)) and (
        deployments.status(kube, NAME)["readyReplicas"] == 2
    )


def test_layers_divided_over_pods_give_the_same_answers(served: Kube):
    name = "digits-group"
    served.apply(jobs.example("serve-group.yaml").replace("replicas: 2", "replicas: 1"))
    try:
        deployments.wait_until_done(served, name)
        (leader,) = (pod for pod in deployments.pods(served, name) if not pod.endswith("-1-1"))
        assert "--tensor=2" in deployments.pods(served, name)[leader]["spec"]["containers"][0]["args"]
        for batch in (1, 3):
            assert answers(served, name, batch) == pytest.approx(answers(served, NAME, batch), abs=1e-4)
    finally:
        kubectl("delete", "modeldeployment", name, "-n", served.namespace)


def answers(kube: Kube, name: str, batch: int) -> list[float]:
    """What the model says of so many images, by the API server's way to the Service."""
    images = [(number % 17) / 16 for number in range(64 * batch)]
    tensor = {"name": "images", "datatype": "FP32", "shape": [batch, 1, 8, 8], "data": images}
    path = f"/api/v1/namespaces/{kube.namespace}/services/http:{name}:80/proxy/v2/models/{name}/infer"
    answer = kubectl("create", "--raw", path, "-f", "-", text=json.dumps({"inputs": [tensor]})).stdout
    found: list[float] = json.loads(answer)["outputs"][0]["data"]
    assert len(found) == 10 * batch
    return found


def test_no_group_is_made_in_part(trained: Kube):
    whole = {"limits": {"nvidia.com/gpu": 4}, "requests": {"cpu": "100m", "memory": "256Mi"}}
    trained.apply(yaml.safe_dump(deployments.manifest("gangs", resources=whole, group={"size": 2})))
    try:
        waiting = wait_for(
            "one group answers and the other waits",
            lambda: (
                (status := deployments.status(trained, "gangs")).get("readyReplicas") == 1
                and "no group is made" in status["message"]
                and status
            ),
            60,
        )
        assert "wanted: 2 workers" in waiting["message"], waiting["message"]
        assert len(deployments.pods(trained, "gangs")) == 2
        deployments.patch(trained, '{"replicas": 1}', "gangs")
        deployments.wait_until_done(trained, "gangs")
    finally:
        kubectl("delete", "modeldeployment", "gangs", "-n", trained.namespace)
