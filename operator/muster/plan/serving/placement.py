"""Groups of several pods: made when there is room for all of their pods, taken back where some find none after all.

So no group holds a part of what another one waits for. A group of one pod is made and left to the scheduler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.plan.model import Demand
from muster.plan.serving.pods import build_group
from muster.plan.timestamps import to_epoch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from muster.plan.serving.groups import Server
    from muster.plan.serving.revisions import Revision
    from muster.plan.serving.view import View

    Made: TypeAlias = Sequence[tuple[int, Revision]]

PATIENCE = 60.0
"""Seconds that a pod of a group may be without a place: there was room when it was made, and others schedule too."""


def is_stuck(server: Server, now: float) -> bool:
    """Whether some of its pods have waited for a place for so long that it is taken back."""
    return seconds_left(server, now) == 0


def seconds_left(server: Server, now: float) -> float | None:
    """Return after how many seconds it is taken back; None where it is not."""
    since = [pod.unplaced_since for pod in server.pods if pod.unplaced_since is not None]
    return max(0.0, min(since) + PATIENCE - now) if since and server.size > 1 else None


def admitted(view: View, made: Made) -> tuple[Made, Demand | None]:
    """Return those of the groups that may be made now, and what is to be asked for because of the others.

    There is an answer for as many groups as there is room for, one at least.
    """
    gangs = [one for one in made if one[1].size > 1]
    if not gangs:
        return made, None
    size = gangs[0][1].size
    alike = [one for one in gangs if one[1].size == size]
    answer = view.admission
    room = answer.pods // size if answer is not None and answer.granted else 0
    return tuple(one for one in made if one not in gangs or one in alike[:room]), _demand(view, alike, size)


def _demand(view: View, groups: Made, size: int) -> Demand:
    meta = view.deployment.metadata
    specs = [pod["spec"] for group, revision in groups for pod in build_group(view.deployment, revision, group, 0)]
    return Demand(
        name=f"{meta.namespace}/{meta.name}",
        pods=tuple(specs),
        least=size,
        since=to_epoch(meta.creation_timestamp) if meta.creation_timestamp else view.now,
        priority_class=specs[0].get("priorityClassName"),
    )
