"""Load on a model from inside the cluster, while a test does things to it."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.cluster.kube import Kube, kubectl, wait_for
from tests.cluster.witness import Witness, watching

if TYPE_CHECKING:
    from collections.abc import Iterator

RATE = 50.0
"""Requests a second: three by HTTP for each by gRPC."""
LIMIT = 5.0
"""Seconds that a client waits for an answer, where nothing else is said."""
CALM = 1.0
"""Seconds within which every request is answered where nothing happens."""
LOADS_NODE = "node-1"
_COUNTS = "/tmp/counts.json"
_HERE = Path(__file__).parent
_WORKER_IMAGE = "localhost/muster-worker:dev"


@dataclass
class Load:
    """A pod that asks a model. `failures()` is what a client would complain of since `since`, in epoch seconds."""

    kube: Kube
    pod: str
    witness: Witness = field(repr=False)
    since: float = 0.0

    @classmethod
    @contextlib.contextmanager
    def start(
        cls,
        kube: Kube,
        model: str,
        path: str = "digits/model",
        program: str = "load_generator.py",
        image: str = _WORKER_IMAGE,
        rate: float = RATE,
        host: str = "",
    ) -> Iterator[Load]:
        """`path`: where the model is on the claim `models`; `program`: what asks `host`, in pods of the image."""
        pod = f"load-{model}"
        files = [f"--from-file={_HERE / name}" for name in sorted({program, "load_generator.py", "open_loop.py"})]
        asked = host or f"{model}.{kube.namespace}.svc"
        command = ["python3", f"/program/{program}", asked, model, str(rate), str(LIMIT), "/model"]
        with watching(kube.namespace) as witness:
            load = cls(kube, pod, witness)
            try:
                kubectl("create", "configmap", pod, "-n", kube.namespace, *files)
                kube.apply(yaml.safe_dump(_manifest(pod, path, image, command)))
                wait_for("the load is on", lambda: load.counted().get("answered", 0) >= RATE, 60)
                yield load
            finally:
                kubectl("delete", "pod", pod, "-n", kube.namespace, "--grace-period=0", "--force", check=False)
                kubectl("delete", "configmap", pod, "-n", kube.namespace, check=False)

    def counted(self) -> dict[str, Any]:
        answer = kubectl("exec", "-n", self.kube.namespace, self.pod, "--", "cat", _COUNTS, check=False)
        return json.loads(answer.stdout) if answer.returncode == 0 and answer.stdout else {}

    def go_on(self, requests: int) -> None:
        """Wait until so many more have been answered."""
        enough = self.counted()["answered"] + requests
        wait_for(f"{requests} more answers", lambda: self.counted().get("answered", 0) >= enough, 60)

    def begin_anew(self) -> None:
        """Forget what failed, once nothing has for a hundred requests: what an earlier test did is over then.

        One that is never answered fails only after `LIMIT`: so none may be waiting either.
        """

        def is_calm() -> bool:
            self.since = time.time()
            self.go_on(100)
            return not self.failures() and self.counted()["waited"] < CALM

        wait_for("nothing fails", is_calm, 60)

    def failures(self) -> list[dict[str, Any]]:
        """Those of requests sent since it began, the last hundred at most."""
        counted = self.counted()
        assert counted["answered"] > RATE
        return [failure for failure in counted["failures"] if failure["sent"] >= self.since]


def _manifest(pod: str, path: str, image: str, command: list[str]) -> dict[str, Any]:
    volumes = [
        {"name": "program", "configMap": {"name": pod}},
        {"name": "models", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}},
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod},
        "spec": {
            "restartPolicy": "Never",
            # Not where a test takes a node away.
            "tolerations": [{"operator": "Exists"}],
            "nodeSelector": {"kubernetes.io/hostname": LOADS_NODE},
            "containers": [
                {
                    "name": "load",
                    "image": image,
                    "imagePullPolicy": "Never",
                    "command": command,
                    "env": [{"name": "COUNTS", "value": _COUNTS}],
                    "volumeMounts": [
                        {"name": "program", "mountPath": "/program"},
                        {"name": "models", "mountPath": "/model", "subPath": path, "readOnly": True},
                    ],
                }
            ],
            "volumes": volumes,
        },
    }
