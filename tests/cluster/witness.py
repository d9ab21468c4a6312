"""What was going on when a request failed: so that a failure that comes once in a hundred runs can be understood."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from tests.cluster.kube import kubectl

_LINES = 40
_COLUMNS = {
    "POD": ".metadata.name",
    "ADDRESS": ".status.podIP",
    "NODE": ".spec.nodeName",
    "LEAVES": ".metadata.deletionTimestamp",
    "READY": '.status.conditions[?(@.type=="Ready")].status',
    "SINCE": '.status.conditions[?(@.type=="Ready")].lastTransitionTime',
    "ENDED": ".status.containerStatuses[0].state.terminated.finishedAt",
}


class Witness:
    """Watches the pods of a namespace, from now until it is told to stop."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._seen = tempfile.TemporaryFile("w+")  # noqa: SIM115 - for as long as it watches
        columns = ",".join(f"{name}:{path}" for name, path in _COLUMNS.items())
        command = ("kubectl", "get", "pods", "-n", namespace, "--watch", "-o", f"custom-columns={columns}")
        self._process = subprocess.Popen(command, stdout=self._seen, stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._seen.close()

    def tells(self, node: str) -> str:
        """What became of the pods, where requests lead now, and where those of this node were led without an answer."""
        self._seen.seek(0)
        head, *lines = self._seen.read().splitlines()
        slices = kubectl("get", "endpointslices", "-n", self._namespace, "-o", "wide", check=False).stdout
        return "\n".join([head, *lines[-_LINES:], slices, *_unanswered(node)])


def _unanswered(node: str) -> list[str]:
    """Connections in the node's own table that were begun, of the last two minutes."""
    command = ("conntrack", "-L", "-p", "tcp", "--state", "SYN_SENT")
    return [
        subprocess.run(["nsenter", f"--net={of}", *command], capture_output=True, text=True, check=False).stdout
        for of in Path("/run/netns").glob(f"muster*-{node}")
    ]
