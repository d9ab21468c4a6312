"""Which groups were lost, why, and how long it took until they answered again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muster.plan.pods import KNOWN_REASONS
from muster.plan.timestamps import to_epoch, to_precise_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from muster.plan.serving.groups import Server
    from muster.plan.serving.rollout import Slot
    from muster.plan.serving.view import View

KEPT = 10


@dataclass(frozen=True, slots=True)
class Loss:
    """One group whose pod, or the process in it, is gone. `server` is None when not even its object is left."""

    group: int
    cause: str
    message: str
    server: Server | None = None
    restart: int | None = None
    exit_code: int | None = None


def losses(view: View, slots: Sequence[Slot]) -> tuple[Loss, ...]:
    """Return those that the status does not know of."""
    known = view.known_replicas
    found = (loss for slot in slots if slot.group < known for loss in _losses(view, slot))
    return tuple(loss for loss in found if not _is_recorded(view, loss))


def record(view: View, slots: Sequence[Slot], lost: Sequence[Loss]) -> list[dict[str, Any]]:
    """Return the status of the last losses, and how long those took that are made good now."""
    by_group = {slot.group: slot for slot in slots}
    entries = [dict(entry) for entry in view.recorded.get("failovers", [])]
    for entry in entries:
        if "replacedSeconds" not in entry and _answers_again(by_group.get(entry["group"]), entry):
            entry["replacedSeconds"] = f"{view.now - to_epoch(entry['at']):.1f}"
    return (entries + [_entry(view, loss) for loss in lost])[-KEPT:]


def is_open(view: View, lost: Sequence[Loss], group: int) -> bool:
    """Whether this group was lost and has not answered since."""
    entries = view.recorded.get("failovers", [])
    known = any(entry["group"] == group and "replacedSeconds" not in entry for entry in entries)
    return known or any(loss.group == group for loss in lost)


def is_recorded(view: View, server: Server) -> bool:
    """Whether the status tells of the loss of this pod."""
    entries = view.recorded.get("failovers", [])
    return any(entry.get("pod") == server.name and "restart" not in entry for entry in entries)


def patience(view: View) -> float | None:
    """Return the seconds until the next pod on an unreachable node is given up; None when there is none."""
    limit = view.deployment.spec.failover.node_lost_seconds
    left = [one.lost_since + limit - view.now for one in view.servers if one.lost_since is not None and not one.ended]
    waiting = [seconds for seconds in left if seconds > 0]
    return min(waiting) if waiting else None


def _losses(view: View, slot: Slot) -> Iterator[Loss]:
    ours = [one for one in view.servers if one.group == slot.group]
    for one in ours:
        if view.is_lost(one) or one.cut_off:
            yield _lost(one)
    living = slot.good + slot.old
    for one in living:
        if one.restarts and view.current is not None and one.revision == view.current.name:
            yield _died(one)
    newest = max(ours, key=lambda one: one.attempt, default=None)
    if living or (newest is not None and _was_to_go(view, slot, newest)):
        return
    if newest is None:
        yield Loss(slot.group, "PodDeleted", f"the pod of group {slot.group} is gone: something or somebody deleted it")
    elif newest.evicted:
        yield Loss(slot.group, "Evicted", f"{newest.name} is evicted", newest)
    else:
        yield Loss(slot.group, "PodDeleted", f"{newest.name} was deleted", newest)


def _was_to_go(view: View, slot: Slot, server: Server) -> bool:
    """Whether its end is told already, or was our own doing."""
    return (
        view.is_lost(server)
        or server.cut_off
        or server.revision != slot.wanted.name
        or (server.cordoned and not server.evicted)
    )


def _lost(server: Server) -> Loss:
    if server.cut_off:
        return Loss(server.group, "Unreachable", f"{server.name} on node {server.node} does not answer", server)
    if not server.ended:
        message = f"{server.name} was on node {server.node}, which is unreachable"
        return Loss(server.group, "NodeLost", message, server)
    cause = KNOWN_REASONS.get(server.reason, "PodFailed")
    said = f": {server.message}" if server.message else ""
    return Loss(server.group, cause, f"{server.name} ended{said}", server, exit_code=server.exit_code)


def _died(server: Server) -> Loss:
    code, reason = server.died_of.get("exitCode"), str(server.died_of.get("reason", ""))
    return Loss(
        server.group,
        KNOWN_REASONS.get(reason, "ProcessDied"),
        f"the process of {server.name} ended with exit code {code} and was started again",
        server,
        restart=server.restarts,
        exit_code=code if isinstance(code, int) else None,
    )


def _is_recorded(view: View, loss: Loss) -> bool:
    if loss.server is None:
        return is_open(view, (), loss.group)
    return any(
        entry.get("pod") == loss.server.name and entry.get("restart") == loss.restart
        for entry in view.recorded.get("failovers", [])
    )


def _answers_again(slot: Slot | None, entry: Mapping[str, Any]) -> bool:
    if slot is None:
        return True  # the group is not wanted any more
    if "restart" in entry:
        return slot.answers
    return any(one.answers and one.name != entry.get("pod") for one in slot.good + slot.old)


def _entry(view: View, loss: Loss) -> dict[str, Any]:
    server = loss.server
    entry = {
        "group": loss.group,
        "cause": loss.cause,
        "message": loss.message,
        "pod": server.name if server is not None else None,
        "node": server.node if server is not None else None,
        "restart": loss.restart,
        "exitCode": loss.exit_code,
        "at": to_precise_timestamp(view.now),
    }
    return {name: value for name, value in entry.items() if value is not None}
