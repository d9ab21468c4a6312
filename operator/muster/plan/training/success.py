"""When a job has succeeded: `spec.successPolicy`, by the newest pod of each rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muster.plan.training.view import View


def succeeded(view: View) -> bool:
    decisive = [view.workers[0]] if view.job.spec.success_policy == "Rank0" else view.workers.values()
    return all(member is not None and member.succeeded for member in decisive)


def message(view: View) -> str:
    if view.job.spec.success_policy == "Rank0":
        return "rank 0 ended with exit code 0"
    return f"all {view.replicas} workers ended with exit code 0"
