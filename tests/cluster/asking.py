"""Programs that look or ask from within the cluster, each in a pod of its own."""

from __future__ import annotations

import json
from typing import Any

from tests.cluster.kube import POD, Kube, wait_for


def run_in_own_pod(kube: Kube, name: str, *command: str, storage: str = "") -> Any:
    """Run Python in a worker image, with the directory `storage` of the claim `models` at /storage.

    Return what it prints, which has to be JSON.
    """
    container: dict[str, Any] = {
        "name": name,
        "image": "localhost/muster-worker:dev",
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", *command],
    }
    spec: dict[str, Any] = {"restartPolicy": "Never", "containers": [container]}
    if storage:
        container["volumeMounts"] = [{"name": "models", "mountPath": "/storage", "subPath": storage, "readOnly": True}]
        spec["volumes"] = [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}]
    kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})

    def ended() -> str | None:
        found = kube.get(POD, name)
        phase = found["status"].get("phase") if found is not None else None
        return phase if phase in {"Succeeded", "Failed"} else None

    assert wait_for(f"pod {name} ended", ended, 60) == "Succeeded", kube.logs(name)
    return json.loads(kube.logs(name))
