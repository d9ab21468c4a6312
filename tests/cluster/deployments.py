"""ModelDeployments on the cluster: their manifests, and how the tests look at them."""

from __future__ import annotations

from typing import Any

from tests.cluster.kube import POD, Kube, kubectl, wait_for

DEPLOYMENT = ("muster.dev/v1alpha1", "ModelDeployment")


def manifest(name: str = "digits", replicas: int = 2, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "muster.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {
            "model": {"fromTrainingJob": "digits"},
            "replicas": replicas,
            "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}},
            **spec,
        },
    }


def status(kube: Kube, name: str = "digits") -> dict[str, Any]:
    found = kube.get(DEPLOYMENT, name)
    assert found is not None, f"ModelDeployment {name} is gone"
    return found.get("status") or {}


def condition(of: dict[str, Any], kind: str) -> str:
    return next(str(one["status"]) for one in of["conditions"] if one["type"] == kind)


def wait_for_phase(kube: Kube, phase: str, name: str = "digits", limit: float = 60, **also: Any) -> dict[str, Any]:
    """`also`: other fields of the status that must have a value."""

    def reached() -> dict[str, Any] | None:
        found = status(kube, name)
        wanted = {"phase": phase} | also
        return found if wanted.items() <= found.items() else None

    return dict(wait_for(f"{name} is {phase}", reached, limit))


def pods(kube: Kube, name: str = "digits") -> dict[str, dict[str, Any]]:
    """Of its groups."""
    selector = f"muster.dev/model-deployment={name},muster.dev/group"
    return {p["metadata"]["name"]: p for p in kube.list(POD, selector)}


def compressors(kube: Kube, name: str = "digits") -> list[str]:
    """The pods that compress its model."""
    selector = f"muster.dev/model-deployment={name},muster.dev/role=compressor"
    return [pod["metadata"]["name"] for pod in kube.list(POD, selector)]


def living(kube: Kube, name: str = "digits") -> dict[str, dict[str, Any]]:
    """The pods that nobody has told to leave."""
    return {name: pod for name, pod in pods(kube, name).items() if "deletionTimestamp" not in pod["metadata"]}


def revisions(kube: Kube, name: str = "digits") -> set[str]:
    """Of all its pods."""
    return {pod["metadata"]["labels"]["muster.dev/revision"] for pod in pods(kube, name).values()}


def patch(kube: Kube, spec: str, name: str = "digits") -> None:
    kubectl("patch", "modeldeployment", name, "-n", kube.namespace, "--type=merge", "-p", f'{{"spec": {spec}}}')


def generation(kube: Kube, name: str = "digits") -> int:
    found = kube.get(DEPLOYMENT, name)
    assert found is not None
    return int(found["metadata"]["generation"])


def wait_until_done(kube: Kube, name: str = "digits", limit: float = 90) -> dict[str, Any]:
    """Wait until the newest spec is what every group serves."""
    newest = generation(kube, name)
    return wait_for_phase(kube, "Ready", name, limit, observedGeneration=newest)


def lost(kube: Kube, pod: str, name: str = "digits", *, died: bool = False) -> dict[str, Any] | None:
    """The last failover of this pod: it was lost itself, or a process in it died."""
    entries = [entry for entry in status(kube, name).get("failovers", []) if entry.get("pod") == pod]
    of_kind = [entry for entry in entries if ("restarted" in entry) == died]
    return of_kind[-1] if of_kind else None


def replaced(kube: Kube, pod: str, name: str = "digits", *, died: bool = False) -> dict[str, Any] | None:
    """The same, once it is over."""
    entry = lost(kube, pod, name, died=died)
    return entry if entry is not None and "replacedSeconds" in entry else None
