"""The status of a deployment: what is true of it now, in the words of the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.plan.conditions import condition, merged
from muster.plan.serving import failovers, gateway, identity, progress
from muster.plan.serving.metrics import measured
from muster.plan.serving.phase import Phase, phase
from muster.plan.serving.pods import url
from muster.plan.timestamps import to_timestamp

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from muster.plan.model import Manifest
    from muster.plan.serving.failovers import Loss
    from muster.plan.serving.rollout import Slot
    from muster.plan.serving.view import View
    from muster.plan.trained_model import Missing


def waiting(view: View, missing: Missing) -> dict[str, Any]:
    """Return the status of a deployment whose model is not there, and that serves nothing else meanwhile."""
    failed = missing.phase == "Failed"
    now = Phase(missing.phase, missing.reason, missing.message)
    said = (
        _condition(view, "Servable", now, holds=False),
        _condition(view, "UpToDate", now, holds=False),
        _condition(view, "Ready", now, holds=False if failed else None),
        _condition(view, "Progressing", now, holds=not failed),
    )
    known = {"attempt": view.attempt} if view.attempt else {}  # no pod's name is ever used again
    return _common(view, now) | known | {"conditions": _conditions(view, *said)}


def active(
    view: View, slots: Sequence[Slot], lost: Sequence[Loss], made: Collection[int], missing: Missing | None
) -> dict[str, Any]:
    """Return the status of a deployment that has something to serve.

    `made`: the groups that are being made. `missing`: why that is not what spec asks for.
    """
    now = phase(view, slots, lost)
    if missing is not None:
        failed = missing.phase == "Failed"
        name = "RolledBack" if failed else "RollingOut"
        now = Phase(name, missing.reason, missing.message, progressing=not failed)
    answering = sum(one.answers and not view.is_over(one) for one in view.servers)
    latest = missing is None and not view.failed and progress.is_latest(view, slots, made)
    ready = all(slot.is_done for slot in slots) and latest
    failing = now.name in {"Failed", "RolledBack"}
    said = (
        _condition(view, "Servable", now, holds=answering > 0),
        _condition(view, "UpToDate", now, holds=latest),
        _condition(view, "Ready", now, holds=False if failing else ready if view.replicas and ready else None),
        _condition(view, "Progressing", now, holds=now.progressing),
        *_routed(view),
    )
    fresh = {
        "attempt": view.attempt + len(made),
        "madeReplicas": _made(view, made),
        "updatedReplicas": progress.updated(view, slots),
        "revision": _revision(view, slots),
        "restart": _restart(view, slots, missing),
        "rollout": progress.record(view, slots),
        "route": gateway.record(view),
        "failovers": failovers.record(view, slots, lost) or None,
        "metrics": measured(view) or None,
        "model": dict(view.target.model) if view.target is not None else view.recorded.get("model"),
    }
    status = _common(view, now) | fresh | {"conditions": _conditions(view, *said)}
    return {name: value for name, value in status.items() if value is not None}


def refused(recorded: Manifest, generation: int, message: str, now: float) -> dict[str, Any]:
    """Return the status of a deployment whose spec this version does not accept; everything else stays as it was."""
    earlier = recorded.get("conditions", [])
    refusal = condition(
        earlier, "Ready", holds=False, reason="InvalidSpec", message=message, generation=generation, now=now
    )
    said = {"observedGeneration": generation, "reason": "InvalidSpec", "message": message}
    return {"phase": "Pending", **recorded, **said, "conditions": merged(earlier, refusal)}


def _common(view: View, now: Phase) -> dict[str, Any]:
    there = [one for one in view.servers if not view.is_over(one)]
    ready = len({one.group for one in there if one.answers and one.group < view.replicas})
    return {
        "observedGeneration": view.deployment.metadata.generation,
        "phase": now.name,
        "reason": now.reason,
        "message": now.message,
        "url": url(view.deployment),
        "replicas": len({one.group for one in there}),
        "readyReplicas": ready,
        "ready": f"{ready}/{view.replicas}",
        "selector": identity.selector(view.deployment),
    }


def _made(view: View, made: Collection[int]) -> int:
    """They are made from the first on, but perhaps not all at once."""
    there = (one.group for one in view.servers if one.group < view.replicas)
    return min(view.replicas, max((view.made_replicas, *(group + 1 for group in (*there, *made)))))


def _revision(view: View, slots: Sequence[Slot]) -> dict[str, Any]:
    recorded = view.recorded.get("revision") or {}
    if view.target is None:
        return dict(recorded)
    said = {"target": view.target.name, "current": view.current.name if view.current is not None else None}
    if view.failed:
        said |= {"failed": recorded["failed"], "failure": recorded.get("failure")}
    elif (why := progress.failure(view, slots)) is not None:
        said |= {"failed": view.target.name, "failure": why}
    return {name: value for name, value in said.items() if value is not None}


def _restart(view: View, slots: Sequence[Slot], missing: Missing | None) -> dict[str, Any] | None:
    asked = view.deployment.spec.rollout.restart
    before = view.recorded.get("restart") or {}
    if not asked or missing is not None or (before.get("observed") == asked and "completedAt" in before):
        return before or None
    done = {"completedAt": to_timestamp(view.now)} if progress.is_whole(view, slots) else {}
    return {"observed": asked} | done


def _routed(view: View) -> tuple[Manifest, ...]:
    """Return whether a gateway sends each revision its share, where it is asked to."""
    if view.gateway is None:
        return ()
    why = gateway.withheld(view)
    now = why if why is not None else gateway.Withheld("Routed", gateway.sentence(view))
    return (_condition(view, "Routed", now, holds=why is None),)


def _conditions(view: View, *said: Manifest) -> list[Manifest]:
    earlier = view.recorded.get("conditions", [])
    return merged((one for one in earlier if one["type"] != "Routed" or view.gateway is not None), *said)


def _condition(view: View, kind: str, now: Phase | gateway.Withheld, *, holds: bool | None) -> dict[str, Any]:
    return condition(
        view.recorded.get("conditions", []),
        kind,
        holds=holds,
        reason=now.reason,
        message=now.message,
        generation=view.deployment.metadata.generation,
        now=view.now,
    )
