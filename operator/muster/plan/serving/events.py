"""What a person reads in `kubectl describe`: one event for every change of phase, and for every group that was lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.plan.model import Event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster.plan.model import Manifest
    from muster.plan.serving.failovers import Loss

WARNINGS = {"Degraded", "Failed", "RolledBack"}


def events(recorded: Manifest, status: Manifest, lost: Sequence[Loss] = ()) -> tuple[Event, ...]:
    """Return the events of going from one status to the other."""
    said = [Event("Warning", loss.cause, f"group {loss.group} was lost: {loss.message}") for loss in lost]
    if recorded.get("phase") != status["phase"]:
        message = f"{status['message']} ({status['reason']})"
        said.append(Event("Warning" if status["phase"] in WARNINGS else "Normal", status["phase"], message))
    return tuple(said)
