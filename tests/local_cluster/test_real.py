"""A real cluster of a checkout of its own, beside whatever else runs on the machine.

Everything here happens in a copy of the package in a temporary directory: it gets a slot of its own.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import local_cluster
from local_cluster.images.engines import ContainerEngine
from local_cluster.kubernetes_api import Access, Api, Object
from local_cluster.stand_ins import FAKE_GPUS, GPU
from tests.local_cluster.machine import proportional_memory, settings, traces

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="the native provider needs root"),
    pytest.mark.skipif(
        any(ContainerEngine(name).works() for name in ("docker", "podman")),
        reason="on this machine kind is the provider",
    ),
]


class Copy:
    """A checkout with nothing but the local cluster in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(Path(local_cluster.__file__).parent, root / "local_cluster")

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "local_cluster", *words]
        return subprocess.Popen(command, cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, *words: str, expect: int = 0) -> str:
        process = self.start(*words)
        output, _ = process.communicate(timeout=500)
        assert process.returncode == expect, output
        return output

    @property
    def slot(self) -> str:
        (claim,) = [
            path
            for path in Path("/run/muster").glob("slot-*.json")
            if json.loads(path.read_text())["checkout"] == str(self.root)
        ]
        return f"muster{claim.stem.removeprefix('slot-')}"

    def api(self) -> Api:
        config = json.loads((self.root / ".cluster" / "kubeconfig").read_text())
        host, port = re.fullmatch(r"https://(.*):(\d+)", config["clusters"][0]["cluster"]["server"]).groups()
        pki = self.root / ".cluster" / "pki"
        return Api(Access(host, int(port), pki / "ca.crt", pki / "admin.crt", pki / "admin.key"))

    def process(self, name: str) -> int:
        return json.loads((self.root / ".cluster" / "processes.json").read_text())[name]["pid"]


def eventually(what: str, condition, limit: float = 60) -> float:
    """Seconds until the condition holds."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < limit, f"{what}: not so after {limit} s"
        time.sleep(0.1)
    return time.monotonic() - begun


@pytest.fixture(scope="module")
def before():
    return settings()


@pytest.fixture(scope="module")
def copy(tmp_path_factory, before):
    made = Copy(tmp_path_factory.mktemp("checkout"))
    yield made
    made.run("down")


@pytest.fixture(scope="module")
def cluster(copy):
    copy.run("tools")  # what is built for the first time is not part of the time below
    begun = time.monotonic()
    print(copy.run("up"))
    print(f"up: {time.monotonic() - begun:.1f} s; memory: {proportional_memory(copy.slot):.0f} MB")
    return copy


def ready_nodes(copy: Copy) -> set[str]:
    return {
        node["metadata"]["name"]
        for node in copy.api().items("/api/v1/nodes")
        if any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"]["conditions"])
    }


def test_three_nodes_in_three_zones_with_fake_gpus(cluster):
    nodes = cluster.api().items("/api/v1/nodes")
    assert ready_nodes(cluster) == {"node-1", "node-2", "node-3"}
    assert len({node["metadata"]["labels"]["topology.kubernetes.io/zone"] for node in nodes}) == 3
    assert {node["status"]["allocatable"][GPU] for node in nodes} == {"4"}
    assert {node["metadata"]["labels"][FAKE_GPUS] for node in nodes} == {"true"}


def test_a_second_up_has_nothing_to_do(cluster):
    begun = time.monotonic()
    assert "running already" in cluster.run("up")
    print(f"up on a running cluster: {time.monotonic() - begun:.2f} s")
    assert f"kubeconfig: {cluster.root}/.cluster/kubeconfig" in cluster.run("status")


def test_a_size_that_is_not_there_does_not_pass_for_done(cluster):
    assert "a cluster with 3 nodes" in cluster.run("up", "--nodes", "5", expect=1)


def test_the_audit_log_tells_who_did_what(cluster):
    lines = (cluster.root / ".cluster" / "logs" / "audit.log").read_text().splitlines()
    assert any(json.loads(line)["user"]["username"] == "admin" for line in lines)


def test_a_claim_is_bound_and_its_data_goes_with_it(cluster):
    api = cluster.api()
    claims = "/api/v1/namespaces/default/persistentvolumeclaims"
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": spec}
    api.create(claims, claim)
    eventually("bound", lambda: api.get(f"{claims}/data")["status"]["phase"] == "Bound")
    storage = cluster.root / ".cluster" / "storage"
    (directory,) = storage.iterdir()
    api.delete(f"{claims}/data")
    eventually("the data is gone", lambda: not directory.exists())
    eventually("the volume is gone", lambda: not api.items("/api/v1/persistentvolumes"))


@pytest.mark.long
@pytest.mark.parametrize("harm", ["fail", "hang"])
def test_a_harmed_node_is_noticed_and_heals(cluster, harm):
    cluster.run("node", harm, "node-2")
    seconds = eventually("node-2 is not ready", lambda: "node-2" not in ready_nodes(cluster))
    print(f"node {harm}: not ready after {seconds:.1f} s")
    assert "on purpose" in cluster.run("status")
    cluster.run("node", "heal", "node-2")
    assert "node-2" in ready_nodes(cluster)


def test_a_node_joins(cluster):
    cluster.run("node", "add", "node-4")
    assert "node-4" in ready_nodes(cluster)
    assert "is there already" in cluster.run("node", "add", "node-4", expect=1)


def test_gpus_come_back_after_a_kubelet_has_reset_them(cluster):
    node, nothing = "/api/v1/nodes/node-3", {GPU: "0"}
    cluster.api().merge(f"{node}/status", {"status": {"capacity": nothing, "allocatable": nothing}})
    eventually("four again", lambda: cluster.api().get(node)["status"]["allocatable"][GPU] == "4")


@pytest.mark.parametrize("name", ["kube-scheduler", "kubelet-1", "containerd-3", "etcd"])
def test_what_has_died_is_started_again_by_up(cluster, name):
    os.kill(cluster.process(name), signal.SIGKILL)
    assert f"{name} is not running" in cluster.run("status", expect=1)
    assert f"started again: {name}" in cluster.run("up")
    cluster.run("status")


def test_down_leaves_nothing(cluster, before):
    slot = cluster.slot
    assert traces(cluster.root, slot) != set()
    cluster.run("down")
    assert traces(cluster.root, slot) == set()
    assert not (cluster.root / ".cluster").exists()
    assert settings() == before


@pytest.mark.long
@pytest.mark.parametrize(
    ("signum", "tidies_itself"), [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGKILL, False)]
)
@pytest.mark.parametrize("seed", [1, 2])
def test_an_up_that_is_cut_short_leaves_nothing(copy, before, signum, tidies_itself, seed):
    moment = random.Random(f"{signum} {seed}").uniform(0.3, 6)  # seconds of the seven that it takes
    process = copy.start("up")
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(moment)
    slots = [copy.slot] if list(Path("/run/muster").glob("*")) and _claimed(copy) else []
    process.send_signal(signum)
    output, _ = process.communicate(timeout=60)
    print(f"{signal.Signals(signum).name} after {moment:.1f} s: exit status {process.returncode}\n{output}")
    if not tidies_itself or process.returncode == 0:
        copy.run("down")
    for slot in slots:
        assert traces(copy.root, slot) == set()
    assert not _claimed(copy)
    assert settings() == before


def _claimed(copy: Copy) -> bool:
    return any(str(copy.root) in path.read_text() for path in Path("/run/muster").glob("slot-*.json"))


def test_simulated_nodes_take_pods(copy):
    print(copy.run("up", "--simulated-nodes", "50"))
    api = copy.api()
    assert len(ready_nodes(copy)) == 50
    container = {"name": "c", "image": "none", "resources": {"limits": {GPU: "8"}}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [container]}}
    pods = "/api/v1/namespaces/default/pods"
    eventually("the service account is there", lambda: api.find("/api/v1/namespaces/default/serviceaccounts/default"))
    api.create(pods, pod)
    eventually("the pod runs", lambda: api.get(f"{pods}/p")["status"]["phase"] == "Running")
    gated = {"containers": [{"name": "c", "image": "none"}], "readinessGates": [{"conditionType": "example.org/g"}]}
    api.create(pods, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "gated"}, "spec": gated})
    eventually("it runs behind its gate", lambda: _condition(api.get(f"{pods}/gated"), "ContainersReady") == "True")
    assert _condition(api.get(f"{pods}/gated"), "Ready") == "False"
    conditions = [*api.get(f"{pods}/gated")["status"]["conditions"], {"type": "example.org/g", "status": "True"}]
    api.merge(f"{pods}/gated/status", {"status": {"conditions": conditions}})
    eventually("it is ready", lambda: _condition(api.get(f"{pods}/gated"), "Ready") == "True")
    copy.run("down")


def _condition(pod: Object, kind: str) -> str | None:
    return next((one["status"] for one in pod["status"].get("conditions", ()) if one["type"] == kind), None)
