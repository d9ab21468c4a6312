"""How a job that trains looks from outside."""

from __future__ import annotations

from typing import Any

from tests.cluster.kube import Kube, wait_for

# The rank is the deepest of tini, the agent, the process that ranks are forked from, and the rank.
KILL_RANK = """
import os, pathlib, signal
parent = {}
for entry in pathlib.Path('/proc').iterdir():
    if entry.name.isdigit() and int(entry.name) != os.getpid():
        fields = (entry / 'stat').read_text().rpartition(')')[2].split()
        parent[int(entry.name)] = int(fields[1])
def depth(pid):
    return 1 + depth(parent[pid]) if pid in parent else 0
os.kill(max(parent, key=depth), signal.SIGKILL)
"""


def wait_until_it_trains(kube: Kube, leader: str, attempt: int = 1, limit: float = 120) -> dict[str, Any]:
    """Return the group's state once it has made steps and saved a checkpoint in this attempt."""

    def trains() -> dict[str, Any] | None:
        state = kube.state(leader)
        steps = (state.get("progress") or {}).get("firstStepAt")
        saved = state.get("checkpoint")
        return state if state.get("attempt") == attempt and steps and saved and state["phase"] == "Running" else None

    return wait_for(f"{leader} trains in attempt {attempt}", trains, limit)


def wait_for_restart(kube: Kube, attempt: int, limit: float = 120) -> dict[str, Any]:
    """Return the status's record of the restart that began this attempt, once it is complete."""

    def recorded() -> dict[str, Any] | None:
        restarts = kube.status("digits").get("restarts", [])
        return next((r for r in restarts if r["attempt"] == attempt - 1 and "recoverySeconds" in r), None)

    return wait_for(f"restart to attempt {attempt} in the status", recorded, limit)


def runs(pod: dict[str, Any]) -> bool:
    return pod["status"]["phase"] in {"Pending", "Running"}


def running(kube: Kube, job: str = "digits") -> list[str]:
    return [name for name, pod in kube.pods(job).items() if runs(pod)]
