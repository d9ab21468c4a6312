"""When a job has succeeded: `spec.successPolicy`, by the newest pod of each rank. And what to know of how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.plan.training.progress import measured

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    return "; ".join((_who_ended(view), *_how_it_ended(view)))


def _who_ended(view: View) -> str:
    if view.job.spec.success_policy == "Rank0":
        return "rank 0 ended with exit code 0"
    return f"all {view.gang} ended with exit code 0"


def _how_it_ended(view: View) -> Iterator[str]:
    """Yield what nobody sees at a glance: that epochs were left out, and that the model is not the last one."""
    said, optimisation = measured(view.group, view.recorded), view.job.spec.optimisation
    progress, model = said.get("progress", {}), said.get("model", {})
    epoch, epochs = progress.get("epoch", 0), progress.get("totalEpochs", 0)
    stopping = optimisation.early_stopping if optimisation is not None else None
    if stopping is not None and epoch < epochs:
        yield f"training ended after epoch {epoch} of {epochs}: {stopping.metric} got no better"
    if model.get("step", 0) < progress.get("step", 0) and view.job.spec.checkpoint.best_by is not None:
        yield f"the model is that of step {model['step']}: the best"
