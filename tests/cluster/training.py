"""How a job that trains looks from outside."""

from __future__ import annotations

from typing import Any

from tests.cluster.kube import Kube, wait_for


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
