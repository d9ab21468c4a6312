"""How many pods evictions must leave, so that no more groups are missing than a rollout may take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.plan.serving import rollout

if TYPE_CHECKING:
    from muster.plan.serving.view import View


def least(view: View) -> int:
    """Return the number for the PodDisruptionBudget.

    Kubernetes counts pods, and one that goes takes its group with it. So as many pods may go as groups may be missing:
    where there are more groups than wanted, as in a rollout, their pods count among those that have to stay.
    """
    size = max((one.size for one in (*view.servers, view.target) if one is not None), default=1)
    sizes = sum(one.size for one in view.servers if one.answers)
    answering = sum(one.answers for one in view.servers)
    wanted = max(0, view.replicas - rollout.most_unavailable(view))
    if size == 1:
        return wanted
    return max(sizes - max(0, answering - wanted), view.replicas * size - rollout.most_unavailable(view))
