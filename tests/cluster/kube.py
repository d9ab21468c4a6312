"""The cluster as the tests speak to it: the official client for objects, kubectl for what users type."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from kubernetes import config
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import NotFoundError

ROOT = Path(__file__).parents[2]
JOB = ("muster.dev/v1alpha1", "TrainingJob")
POD = ("v1", "Pod")
POLL_SECONDS = 0.1


def kubeconfig() -> str:
    return os.environ.get("KUBECONFIG") or str(ROOT / ".cluster" / "kubeconfig")


@cache
def tools() -> str:
    """The directory with kubectl, in the versions that the project pins."""
    answer = subprocess.run(
        ["python3", "-m", "local_cluster", "tools"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return answer.stdout.strip().splitlines()[-1]


def kubectl(*arguments: str, check: bool = True, text: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"KUBECONFIG": kubeconfig(), "PATH": f"{tools()}:{os.environ['PATH']}"}
    return subprocess.run(
        ["kubectl", *arguments],
        env=environment,
        check=check,
        capture_output=True,
        text=True,
        input=text,
        timeout=120,
    )


def local_cluster(*arguments: str, limit: float = 120) -> None:
    subprocess.run(["python3", "-m", "local_cluster", *arguments], cwd=ROOT, check=True, timeout=limit)


def wait_for(what: str, condition: Any, limit: float) -> Any:
    """Return the first true answer of `condition`, asked every tenth of a second."""
    deadline = time.monotonic() + limit
    last: Any = None
    while time.monotonic() < deadline:
        last = condition()
        if last:
            return last
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"{what}: not within {limit:.0f} s; last seen: {last!r}")


@dataclass
class Kube:
    """One namespace of the cluster under test."""

    namespace: str
    dynamic: DynamicClient

    @classmethod
    def connect(cls, namespace: str) -> Kube:
        return cls(namespace, DynamicClient(config.new_client_from_config(kubeconfig())))

    def apply(self, manifest: dict[str, Any] | str) -> None:
        """Apply as a user does; raises with kubectl's own words."""
        text = manifest if isinstance(manifest, str) else yaml.safe_dump(manifest)
        answer = kubectl("apply", "-n", self.namespace, "-f", "-", check=False, text=text)
        assert answer.returncode == 0, answer.stderr

    def get(self, kind: tuple[str, str], name: str) -> dict[str, Any] | None:
        try:
            return self._resource(kind).get(name=name, namespace=self.namespace).to_dict()
        except NotFoundError:
            return None

    def list(self, kind: tuple[str, str], selector: str = "") -> list[dict[str, Any]]:
        return self._resource(kind).get(namespace=self.namespace, label_selector=selector).to_dict()["items"]

    def delete(self, kind: tuple[str, str], name: str) -> None:
        self._resource(kind).delete(name=name, namespace=self.namespace)

    def pods(self, job: str) -> dict[str, dict[str, Any]]:
        return {p["metadata"]["name"]: p for p in self.list(POD, f"muster.dev/training-job={job}")}

    def status(self, job: str) -> dict[str, Any]:
        found = self.get(JOB, job)
        assert found is not None, f"TrainingJob {job} is gone"
        return found.get("status") or {}

    def logs(self, pod: str) -> str:
        return kubectl("logs", "-n", self.namespace, pod).stdout

    def state(self, pod: str, port: int = 7070) -> dict[str, Any]:
        """What the pod's agent says of itself and its group; empty while it does not answer."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}:{port}/proxy/state"
        answer = kubectl("get", "--raw", path, check=False)
        return json.loads(answer.stdout) if answer.returncode == 0 else {}

    def run_in(self, pod: str, program: str) -> str:
        """Run a Python program in the worker container and return what it prints."""
        return kubectl("exec", "-n", self.namespace, pod, "-c", "worker", "--", "python3", "-c", program).stdout

    def wait_for_phase(self, job: str, phase: str, limit: float) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            status = self.status(job)
            assert status.get("phase") != "Failed" or phase == "Failed", status
            return status if status.get("phase") == phase else None

        return wait_for(f"{job} is {phase}", reached, limit)

    def _resource(self, kind: tuple[str, str]) -> Any:
        return self.dynamic.resources.get(api_version=kind[0], kind=kind[1])
