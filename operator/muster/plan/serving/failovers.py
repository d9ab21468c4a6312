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
PROCESS_DIED = "ProcessDied"


@dataclass(frozen=True, slots=True)
class Loss:
    """One group whose pod, or the process in it, is gone. `server` is None when not even its object is left.

    `died_at`: when the process died that was started again in its pod; `down_for`: seconds until it answered again, as
    far as that is known.
    """

    group: int
    cause: str
    message: str
    server: Server | None = None
    exit_code: int | None = None
    died_at: float | None = None
    down_for: float | None = None


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
    return any(entry.get("pod") == server.name and "restarted" not in entry for entry in entries)


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
    for one in slot.pods:
        if view.current is not None and one.revision == view.current.name:
            yield from _deaths(view, one)
    newest = max(ours, key=lambda one: one.attempt, default=None)
    if slot.pods or (newest is not None and _was_to_go(view, slot, newest)):
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


def _deaths(view: View, server: Server) -> Iterator[Loss]:
    """Return the last death of the pod's container, as the kubelet tells it, and that of a process within."""
    by_kubelet = server.died_of
    if server.restarts and by_kubelet.get("finishedAt"):
        code, reason = int(by_kubelet["exitCode"]), str(by_kubelet.get("reason", ""))
        yield _death(server, KNOWN_REASONS.get(reason, PROCESS_DIED), code, to_epoch(by_kubelet["finishedAt"]))
    report = view.reports.get(server.uid)
    inside = (report.state or {}).get("death") if report is not None else None
    if inside:
        down_for = float(inside["seconds"]) if inside.get("seconds") is not None else None
        yield _death(server, PROCESS_DIED, int(inside["exitCode"]), float(inside["diedAt"]), down_for)


def _death(server: Server, cause: str, code: int, at: float, down_for: float | None = None) -> Loss:
    message = f"a process of {server.name} ended with exit code {code} and was started again"
    return Loss(server.group, cause, message, server, code, at, down_for)


def _is_recorded(view: View, loss: Loss) -> bool:
    if loss.server is None:
        return is_open(view, (), loss.group)
    if loss.died_at is None:
        return is_recorded(view, loss.server)
    at = to_precise_timestamp(loss.died_at)
    entries = view.recorded.get("failovers", [])
    if len(entries) == KEPT and at < entries[0]["at"]:
        return True  # it was, once
    return any(entry.get("pod") == loss.server.name and entry["at"] == at for entry in entries)


def _answers_again(slot: Slot | None, entry: Mapping[str, Any]) -> bool:
    if slot is None:
        return True  # the group is not wanted any more
    if "restarted" in entry:
        return slot.answers
    return any(one.answers and one.name != entry.get("pod") for one in slot.pods)


def _entry(view: View, loss: Loss) -> dict[str, Any]:
    server = loss.server
    entry = {
        "group": loss.group,
        "cause": loss.cause,
        "message": loss.message,
        "pod": server.name if server is not None else None,
        "node": server.node if server is not None else None,
        "restarted": True if loss.died_at is not None else None,
        "exitCode": loss.exit_code,
        "at": to_precise_timestamp(loss.died_at if loss.died_at is not None else view.now),
        "replacedSeconds": f"{loss.down_for:.1f}" if loss.down_for is not None else None,
    }
    return {name: value for name, value in entry.items() if value is not None}
