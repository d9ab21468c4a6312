"""Several real agents on this machine, as if each were in a pod of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 300.0
ROOT = Path(__file__).parents[3]
PROGRAMS = Path(__file__).with_name("programs")
LAUNCHER = PROGRAMS / "agent_with_entry.py"


def eventually(condition: Callable[[], Any], what: str, limit: float = LIMIT) -> Any:
    """Polls until the condition holds and returns what it returned."""
    deadline = time.monotonic() + limit
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {limit:g} s")
        time.sleep(0.05)


@dataclass
class Pod:
    """One agent process and what it leaves behind."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path

    def state(self) -> dict[str, Any]:
        """Its `/state`; empty while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/state", timeout=2) as answer:
                return json.load(answer)
        except OSError:
            return {}

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
            return answer.read().decode()

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def last_words(self) -> dict[str, Any]:
        return json.loads((self.folder / "termination").read_text())

    def rank_pid(self) -> int | None:
        """The process of its rank, as the fixture programs write it down."""
        found = sorted(self.folder.glob("pid-*"), key=lambda path: path.stat().st_mtime_ns)
        text = found[-1].read_text() if found else ""
        return int(text) if text else None

    def kill(self) -> None:
        """As a lost node does it: the agent and all of its ranks at once."""
        rank = self.rank_pid()
        self.process.kill()
        self.process.wait()
        if rank is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(rank, signal.SIGKILL)

    def wait(self, limit: float = LIMIT) -> int:
        return self.process.wait(limit)


@dataclass
class Group:
    """The pods of one job. `workload` is what follows `muster-worker agent`."""

    folder: Path
    workload: list[str]
    replicas: int = 3
    entry: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    pods: list[Pod] = field(default_factory=list)

    most: int = 0

    def __post_init__(self) -> None:
        self.ports = free_ports(max(self.replicas, self.most))

    def start(self, rank: int, attempt: int = 1, **environment: str) -> Pod:
        folder = self.folder / f"{rank}-{attempt}-{len(self.pods)}"
        folder.mkdir()
        (folder / "termination").touch()
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": os.pathsep.join((str(ROOT / "worker_image"), str(PROGRAMS))),
            "PYTHONDONTWRITEBYTECODE": "1",
            "GLOO_SOCKET_IFNAME": "lo",
            "MUSTER_JOB": "digits",
            "MUSTER_JOB_UID": "uid-1",
            "MUSTER_NAMESPACE": "default",
            "MUSTER_POD": f"digits-{rank}-{attempt}",
            "MUSTER_RANK": str(rank),
            "MUSTER_REPLICAS": str(self.replicas),
            "MUSTER_ATTEMPT": str(attempt),
            "MUSTER_PROCESSES": "1",
            "MUSTER_BACKEND": "gloo",
            "MUSTER_COORDINATOR": f"127.0.0.1:{self.ports[0]}",
            "MUSTER_PORT": str(self.ports[rank]),
            "MUSTER_STORAGE": str(self.folder / "storage"),
            "MUSTER_REPORT": str(folder / "report.jsonl"),
            "MUSTER_PERMANENT_EXIT_CODES": "2,3",
            "MUSTER_GRACE_SECONDS": "30",
            "MUSTER_TERMINATION_LOG": str(folder / "termination"),
            "TEST_FOLDER": str(folder),
            **self.environment,
            **environment,
        }
        command = [sys.executable, "-m", "muster_worker", "agent", *self.workload]
        if self.entry is not None:
            command = [sys.executable, str(LAUNCHER), self.entry, *self.workload]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, env=variables, stdout=log, stderr=log, cwd=self.folder)
        pod = Pod(process, self.ports[rank], folder)
        self.pods.append(pod)
        return pod

    def start_all(self) -> list[Pod]:
        return [self.start(rank) for rank in range(self.replicas)]

    def close(self) -> None:
        """Leaves no process behind; raises when a rank outlived its agent."""
        for pod in self.pods:
            if pod.process.poll() is None:
                pod.kill()
        pids = {int(path.read_text() or 0) for pod in self.pods for path in pod.folder.glob("pid-*")} - {0}
        eventually(lambda: not any(is_alive(pid) for pid in pids), f"the end of the ranks {sorted(pids)}", 10)

    def logs(self) -> str:
        return "\n".join(f"--- {pod.folder.name}\n{pod.log}" for pod in self.pods)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
