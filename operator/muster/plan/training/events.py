"""What a person reads in `kubectl describe`: one event for every change of phase that is worth a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.plan.model import Event

if TYPE_CHECKING:
    from muster.plan.model import Manifest

WARNINGS = {"Restarting", "Failed"}


def events(recorded: Manifest, status: Manifest) -> tuple[Event, ...]:
    """Return the events of going from one status to the other."""
    changed = recorded.get("phase") != status["phase"]
    another_restart = recorded.get("attempt", 0) < status["attempt"] and status["phase"] == "Restarting"
    if not changed and not another_restart:
        return ()
    message = f"{status['message']} ({status['reason']})"
    return (Event("Warning" if status["phase"] in WARNINGS else "Normal", status["phase"], message),)
