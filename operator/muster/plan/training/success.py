"""When a job has succeeded: `spec.successPolicy`, by the newest pod of each rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muster.plan.training.members import Member
    from muster.plan.training.view import View


def succeeded(view: View) -> bool:
    if view.job.spec.elastic is not None or view.servers:
        # Rank 0's agent ends with 0 only when the whole group has; a worker that was to join it may never have run.
        return _ended_well(view.workers[0]) and view.group.get("phase") == "Succeeded"
    decisive = [view.workers[0]] if view.job.spec.success_policy == "Rank0" else view.workers.values()
    return all(map(_ended_well, decisive))


def _ended_well(member: Member | None) -> bool:
    return member is not None and member.succeeded


def message(view: View) -> str:
    if view.job.spec.success_policy == "Rank0":
        return "rank 0 ended with exit code 0"
    return f"all {view.gang} ended with exit code 0"
