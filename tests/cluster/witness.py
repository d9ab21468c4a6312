"""What was going on when a request failed: so that a failure that comes once in a hundred runs can be understood."""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_LINES = 80
_PODS = {
    "POD": ".metadata.name",
    "ADDRESS": ".status.podIP",
    "NODE": ".spec.nodeName",
    "LEAVES": ".metadata.deletionTimestamp",
    "READY": '.status.conditions[?(@.type=="Ready")].status',
    "SINCE": '.status.conditions[?(@.type=="Ready")].lastTransitionTime',
    "ENDED": ".status.containerStatuses[0].state.terminated.finishedAt",
}
_SLICES = {
    "SLICE": ".metadata.name",
    "ADDRESSES": ".endpoints[*].addresses[0]",
    "READY": ".endpoints[*].conditions.ready",
    "SERVING": ".endpoints[*].conditions.serving",
}
_CONNECTION = re.compile(r"tcp +6 +\d+ (?P<state>\w+) src=.* dport=80 .*?src=(?P<answers>[\d.]+) ")


@contextlib.contextmanager
def watching(namespace: str) -> Iterator[Witness]:
    """Watches its pods and where its Services lead meanwhile."""
    seen: deque[str] = deque(maxlen=_LINES)
    with contextlib.ExitStack() as stack:
        for kind, columns in (("pods", _PODS), ("endpointslices", _SLICES)):
            shown = ",".join(f"{name}:{path}" for name, path in columns.items())
            command = ("kubectl", "get", kind, "-n", namespace, "--watch", "-o", f"custom-columns={shown}")
            process = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            threading.Thread(target=_note, args=(process.stdout, seen), daemon=True).start()
        yield Witness(seen)


def _note(lines: IO[str], seen: deque[str]) -> None:
    with contextlib.suppress(ValueError):  # closed while it is read
        for line in lines:
            seen.append(f"{time.time():.2f} {line.rstrip()}")


@dataclass(frozen=True)
class Witness:
    """`_seen`: what became of pods and endpoints, a line for each change with when it was told, in epoch seconds."""

    _seen: deque[str]

    def tells(self, node: str) -> str:
        """What became of them, and with whom this node's own table has connections to a port 80, by their state."""
        return "\n".join([*self._seen, *_connections(node)])


def _connections(node: str) -> list[str]:
    found: Counter[str] = Counter()
    for of in Path("/run/netns").glob(f"muster*-{node}"):
        command = ["nsenter", f"--net={of}", "conntrack", "-L", "-p", "tcp"]
        table = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        found.update(f"{one['answers']} {one['state']}" for one in _CONNECTION.finditer(table))
    return [f"{number} connections to {what}" for what, number in sorted(found.items())]
