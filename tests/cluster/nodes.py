"""The nodes of the cluster, and which of them the operator leads from."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.kube import kubectl


@contextlib.contextmanager
def keep_workers_off_the_leader() -> Iterator[None]:
    """No pod is placed on the node of the operator that leads."""
    node = node_of_the_leader()
    kubectl("cordon", node)
    try:
        yield
    finally:
        kubectl("uncordon", node)


def node_of_the_leader() -> str:
    holder = kubectl("get", "lease", "-n", "muster-system", "muster", "-o", "jsonpath={.spec.holderIdentity}").stdout
    return kubectl("get", "pod", "-n", "muster-system", holder.split("_")[0], "-o", "jsonpath={.spec.nodeName}").stdout


def ready(node: str) -> str:
    path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
    return kubectl("get", "node", node, "-o", path).stdout


def kill_process(pod_uid: str, name: str | None = None) -> None:
    """Kill the process of this name in the pod's container `worker`, or the first, with which the container ends.

    From outside: in a container, nobody can kill its first process.
    """
    found = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cgroup") if _holds(path, pod_uid)]
    served = [pid for pid in found if _holds(Path(f"/proc/{pid}/cmdline"), "serve")]
    parents = {pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in served}
    names = {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in served}
    wanted = [pid for pid in served if (parents[pid] not in served if name is None else names[pid] == name)]
    assert len(wanted) == 1, f"{name or 'the first'} is not one of {names}"
    os.kill(wanted[0], signal.SIGKILL)


def _holds(file: Path, word: str) -> bool:
    """Does it hold the word, with dashes or underscores? A process that has ended meanwhile says nothing."""
    try:
        return word.replace("-", "_") in file.read_text().replace("-", "_")
    except OSError:
        return False
