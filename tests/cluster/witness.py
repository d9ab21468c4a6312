"""What was going on when a request failed: so that a failure that comes once in a hundred runs can be understood."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

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


@contextlib.contextmanager
def watching(namespace: str) -> Iterator[Witness]:
    """Watches its pods meanwhile."""
    columns = ",".join(f"{name}:{path}" for name, path in _COLUMNS.items())
    command = ("kubectl", "get", "pods", "-n", namespace, "--watch", "-o", f"custom-columns={columns}")
    with (
        tempfile.TemporaryFile("w+") as seen,
        subprocess.Popen(command, stdout=seen, stderr=subprocess.DEVNULL) as process,
    ):
        try:
            yield Witness(namespace, seen)
        finally:
            process.kill()


@dataclass(frozen=True)
class Witness:
    """`_seen`: what became of the pods, a line for each change."""

    _namespace: str
    _seen: IO[str]

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
