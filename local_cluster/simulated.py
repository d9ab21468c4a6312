"""Simulated nodes: kwok answers for them, so that thousands fit on one machine. Their pods run in name only."""

import json
from pathlib import Path

from local_cluster import go_builds, interrupts
from local_cluster.checkout import write_atomically
from local_cluster.kubernetes_api import Api, ApiError, Object
from local_cluster.processes import Daemons
from local_cluster.stand_ins import FAKE_GPUS, GPU, SIMULATED

GPUS = 8
ZONES = 3
PODS = "10.80.0.0/13"
"""The addresses of simulated pods. They lead nowhere; the clusters' own addresses lie beyond."""
_GATES = Path(__file__).with_name("simulated_gates.yaml")
_CONFIG: Object = {
    "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
    "kind": "KwokConfiguration",
    "options": {
        "cidr": PODS,
        # Whoever brings a configuration brings these too: kwok's own defaults are not put in.
        "podPlayStageParallelism": 16,
        "nodePlayStageParallelism": 16,
        "nodeLeaseParallelism": 4,
        "podsOnNodeSyncParallelism": 4,
    },
}


def kwok(directory: Path, kubeconfig: Path) -> list[str | Path]:
    """The command that plays the nodes; its configuration is written into `directory`."""
    place = go_builds.build(go_builds.KWOK)
    # What becomes of a node and a pod, step by step, in kwok's own words.
    stages = [path.read_text() for path in (*sorted(place.glob("*.yaml")), _GATES)]
    config = directory / "kwok.yaml"
    write_atomically(config, "\n---\n".join([json.dumps(_CONFIG), *stages]))
    return [
        place / "kwok",
        f"--config={config}",
        f"--kubeconfig={kubeconfig}",
        f"--manage-nodes-with-annotation-selector={SIMULATED}=fake",
        # It renews each after a quarter of this: twice before the node controller's 12 seconds are over, so that
        # on a busy machine no node is taken for lost.
        "--node-lease-duration-seconds=24",
        "--v=WARN",
    ]


def create_nodes(api: Api, count: int) -> None:
    for number in range(1, count + 1):
        interrupts.check()
        try:
            api.create("/api/v1/nodes", node(number))
        except ApiError as error:
            if error.status != 409:
                raise


def await_nodes(api: Api, daemons: Daemons, count: int) -> None:
    def ready() -> bool:
        daemons.must_live()
        nodes = api.items("/api/v1/nodes", labelSelector="type=kwok", resourceVersion="0")
        return sum(map(is_ready, nodes)) >= count

    interrupts.wait_for(f"{count} simulated nodes are ready", ready, limit=60 + count / 20, every=0.5)


def is_ready(node: Object) -> bool:
    conditions = node.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def node(number: int) -> Object:
    name = f"simulated-{number}"
    amounts = {"cpu": "64", "memory": "512Gi", "pods": "110", "ephemeral-storage": "1Ti", GPU: str(GPUS)}
    labels = {
        "type": "kwok",
        FAKE_GPUS: "true",
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/zone": f"zone-{(number - 1) % ZONES + 1}",
        "topology.kubernetes.io/region": "local",
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": {SIMULATED: "fake"}},
        "status": {"capacity": amounts, "allocatable": amounts},
    }
