"""What was measured of the workers' machines before the first step, and which of them can do too little.

Its node is kept free of the job's pods for as long as the record of that is kept, in `status.restarts`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from muster.plan.training.failures import Loss
    from muster.plan.training.members import Member
    from muster.plan.training.view import View

CAUSE = "PreflightFailed"
_MEASURED = (
    ("gigaflops", "flops", 1e-9),
    ("megabytesPerSecond", "bandwidth", 1e-6),
    ("latencyMilliseconds", "latency", 1e3),
)
"""What the status calls it, what the worker does, and one of the worker's units in the status's."""


def record(view: View) -> list[dict[str, Any]]:
    """Return what was measured, in the status's words; what the group does not say stays as recorded."""
    said = view.group.get("preflight")
    if not said:
        return list(view.recorded.get("preflight") or ())
    nodes = {member.name: member.node for member in view.members}
    of_pods = ({"pod": one["pod"], "node": nodes.get(one["pod"])} | _figures(one) for one in said)
    return [{name: value for name, value in one.items() if value is not None} for one in of_pods]


def fault(view: View, member: Member) -> str | None:
    """Return what the pod's machine cannot do that the spec wants; None where nobody has found anything."""
    wanted = view.job.spec.preflight
    if wanted is None or not member.running:
        return None
    found = next((one for one in view.group.get("preflight") or () if one["pod"] == member.name), None)
    if found is None:
        return None
    figures = _figures(found)
    for field, name, unit, least in (
        ("minGigaflops", "gigaflops", "GFLOP/s", wanted.min_gigaflops),
        ("minMegabytesPerSecond", "megabytesPerSecond", "MB/s", wanted.min_megabytes_per_second),
    ):
        if least is not None and name in figures and float(figures[name]) < float(least):
            return _sentence(member, f"{figures[name]} {unit}", f"at least {least}", field)
    latency, most = figures.get("latencyMilliseconds"), wanted.max_latency_milliseconds
    if most is not None and latency is not None and float(latency) > float(most):
        return _sentence(member, f"{latency} ms there and back", f"at most {most}", "maxLatencyMilliseconds")
    return None


def avoided(view: View, lost: Iterable[Loss] = ()) -> tuple[str, ...]:
    """Return the nodes that new pods are kept off."""
    recorded = (one.get("node") for one in view.recorded.get("restarts", ()) if one["cause"] == CAUSE)
    now = (loss.member.node for loss in lost if loss.cause == CAUSE and loss.member is not None)
    return tuple(sorted({node for node in (*recorded, *now) if node is not None}))


def _sentence(member: Member, found: str, wanted: str, field: str) -> str:
    return f"{member.name} on node {member.node}: found {found}, wanted {wanted} (spec.preflight.{field})"


def _figures(one: Mapping[str, Any]) -> dict[str, str]:
    """Return what was measured as the status has it; the worker counts in seconds, bytes and operations."""
    return {name: f"{one[key] * factor:.4g}" for name, key, factor in _MEASURED if one.get(key) is not None}
