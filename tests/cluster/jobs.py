"""The jobs that the tests run, as manifests."""

from __future__ import annotations

from typing import Any

import yaml

from tests.cluster.kube import ROOT

CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "models"},
    "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
}
CHECKPOINT_STEPS = 50


def example(name: str) -> str:
    return (ROOT / "examples" / name).read_text()


def endless(name: str = "digits", **spec: Any) -> str:
    """Digits for longer than any test takes, on (fake) GPUs, with frequent checkpoints."""
    job = {
        "apiVersion": "muster.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": {
            "replicas": 3,
            "recipe": {"name": "muster_worker.recipes.digits:Digits", "config": {"epochs": 5000, "batchSize": 64}},
            "backend": "gloo",
            "resources": {"limits": {"nvidia.com/gpu": 1}, "requests": {"cpu": "200m", "memory": "512Mi"}},
            "storage": {"persistentVolumeClaim": {"claimName": "models"}, "path": name},
            # Written while the training waits: only then is one interval a bound on the steps that are lost.
            "checkpoint": {"everySteps": CHECKPOINT_STEPS, "keep": 3, "asynchronous": False},
            **spec,
        },
    }
    return yaml.safe_dump_all([CLAIM, job])
