"""The nodes of the cluster, and which of them the operator leads from."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
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


@contextlib.contextmanager
def slow_link(node: str, rate: str) -> Iterator[None]:
    """What the node sends to others goes at that rate, as `tc` writes it."""
    within = ["ip", "netns", "exec", _namespace(node), "tc", "qdisc"]
    subprocess.run([*within, *f"add dev eth0 root tbf rate {rate} burst 64kb latency 200ms".split()], check=True)
    try:
        yield
    finally:
        subprocess.run([*within, "del", "dev", "eth0", "root"], check=True)


def _namespace(node: str) -> str:
    """The network namespace that is this cluster's node: another cluster's has another address."""
    path = "jsonpath={.status.addresses[?(@.type=='InternalIP')].address}"
    address = kubectl("get", "node", node, "-o", path).stdout
    for one in Path("/run/netns").glob(f"*-{node}"):
        shown = subprocess.run(["ip", "-n", one.name, "-br", "address"], capture_output=True, text=True, check=True)
        if f" {address}/" in shown.stdout:
            return one.name
    raise AssertionError(f"{node} has no network namespace here")


@contextlib.contextmanager
def slowed_down(pod_uid: str, share: float) -> Iterator[None]:
    """The pod's processes get so much of one core together, in slices much shorter than a step."""
    period = 10_000  # microseconds
    files = _cpu_files(pod_uid)
    before = {file: file.read_text() for file in files}
    quota = int(period * share)
    for file, value in zip(files, (period, quota) if len(files) > 1 else (f"{quota} {period}",), strict=True):
        file.write_text(str(value))
    try:
        yield
    finally:
        for file, text in reversed(before.items()):
            file.write_text(text)


def _cpu_files(pod_uid: str) -> list[Path]:
    """What limits the pod's share of the cores: a period and a quota, or both in one file where cgroups are v2."""
    names = (pod_uid, pod_uid.replace("-", "_"))
    for group in Path("/sys/fs/cgroup").rglob("*pod*"):
        if any(name in group.name for name in names):
            for files in (["cpu.cfs_period_us", "cpu.cfs_quota_us"], ["cpu.max"]):
                if all((group / file).exists() for file in files):
                    return [group / file for file in files]
    raise AssertionError(f"pod {pod_uid} has no cgroup of the cpu controller")


def _holds(file: Path, word: str) -> bool:
    """Does it hold the word, with dashes or underscores? A process that has ended meanwhile says nothing."""
    try:
        return word.replace("-", "_") in file.read_text().replace("-", "_")
    except OSError:
        return False
