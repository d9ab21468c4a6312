"""The real Kueue, for as long as a test needs it, and a queue with a quota."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from local_cluster import go_builds
from tests.cluster import beside
from tests.cluster.kube import Kube, kubeconfig, kubectl

API = "kueue.x-k8s.io/v1beta1"
WORKLOAD = (API, "Workload")
LOCAL_QUEUE = "research"
_HEALTH = "127.0.0.1:8081"
_CERTIFICATES = beside.LOGS / "kueue"
_CONFIGURATION = {
    "apiVersion": "config.kueue.x-k8s.io/v1beta1",
    "kind": "Configuration",
    "namespace": "kueue-system",
    "health": {"healthProbeBindAddress": _HEALTH},
    "metrics": {"bindAddress": "0"},
    "webhook": {"host": "127.0.0.1", "port": 9443, "certDir": str(_CERTIFICATES)},
    "leaderElection": {"leaderElect": False},
    "internalCertManagement": {"enable": False},
    "waitForPodsReady": {"enable": True, "timeout": "10m", "blockAdmission": False},
    "integrations": {"frameworks": ["batch/job"], "externalFrameworks": ["TrainingJob.v1alpha1.muster.dev"]},
    # Its server of aggregated APIs would have to be registered; the other one has nothing to do here.
    "featureGates": {"VisibilityOnDemand": False, "MultiKueue": False},
}
# The certificates of its metrics, which are off, are read all the same, and from nowhere else.
_WITH_ITS_ETC = f"""
mount -t tmpfs -o mode=755 tmpfs /etc
mkdir -p /etc/kueue/metrics
cp -r {_CERTIFICATES} /etc/kueue/metrics/certs
exec "$@"
"""


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Kueue with its resource definitions. Its webhooks are not registered: they are to fill in nothing for Muster."""
    place = go_builds.build(go_builds.KUEUE)
    beside.certificate(_CERTIFICATES.name)
    config = beside.write("kueue.yaml", _CONFIGURATION)
    private = ("unshare", "--mount", "--propagation", "private", "--", "/bin/sh", "-ec", _WITH_ITS_ETC, "sh")
    words = ("env", f"KUBECONFIG={kubeconfig()}", place / "kueue", f"--config={config}", "--zap-log-level=2")
    with beside.definitions(go_builds.KUEUE), beside.program("kueue", *words, within=private) as process:
        beside.answers("kueue", process, f"http://{_HEALTH}/readyz")
        yield


@contextlib.contextmanager
def queue(kube: Kube, gpus: int) -> Iterator[None]:
    """A LocalQueue, and behind it a ClusterQueue with a quota of GPUs, in which higher priority preempts."""
    name = kube.namespace
    resources = {"cpu": "100", "memory": "100Gi", "nvidia.com/gpu": gpus}
    flavor = {"name": name, "resources": [{"name": one, "nominalQuota": value} for one, value in resources.items()]}
    try:
        kube.apply(_object("ResourceFlavor", name, nodeLabels={"kubernetes.io/os": "linux"}))
        kube.apply(
            _object(
                "ClusterQueue",
                name,
                namespaceSelector={},
                preemption={"withinClusterQueue": "LowerPriority"},
                resourceGroups=[{"coveredResources": list(resources), "flavors": [flavor]}],
            )
        )
        kube.apply(_object("LocalQueue", LOCAL_QUEUE, clusterQueue=name))
        yield
    finally:  # while Kueue is there to let go of them
        in_order = (
            ("trainingjobs", "--all"),
            ("workloads.kueue.x-k8s.io", "--all"),
            ("localqueues", "--all"),
            ("clusterqueues", name),
            ("resourceflavors", name),
        )
        for words in in_order:
            kubectl("delete", *words, "-n", name, "--ignore-not-found", "--wait=true", "--timeout=60s")


def workload(kube: Kube, job: str) -> dict[str, Any] | None:
    found = kube.list(WORKLOAD, f"muster.dev/training-job={job}")
    assert len(found) <= 1, [one["metadata"]["name"] for one in found]
    return found[0] if found else None


def says(kube: Kube, job: str, kind: str) -> str | None:
    """The status of a condition of the job's Workload."""
    conditions = ((workload(kube, job) or {}).get("status") or {}).get("conditions") or []
    return next((one["status"] for one in conditions if one["type"] == kind), None)


def set_active(kube: Kube, job: str, active: bool) -> None:
    """As an administrator does it."""
    found = workload(kube, job)
    assert found is not None
    change = f'{{"spec": {{"active": {str(active).lower()}}}}}'
    kubectl("patch", "workload", found["metadata"]["name"], "-n", kube.namespace, "--type=merge", "--patch", change)


def _object(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name}, "spec": spec}
