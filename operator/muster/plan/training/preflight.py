"""What was measured of the workers' machines before the first step, and which of them can do too little.

Its node is kept free of the job's pods for as long as the record of that is kept, in `status.restarts`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from muster.api.trainingjob import Preflight
    from muster.plan.training.failures import Loss
    from muster.plan.training.members import Member
    from muster.plan.training.view import View

CAUSE = "PreflightFailed"
TOLD = 10
"""Of more pods, only those are told of that are worst by one figure: so many at least by each."""
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
    measured = next((one for one in view.group.get("preflight") or () if one["pod"] == member.name), None)
    if measured is None:
        return None
    figures = _figures(measured)
    slow = _below("gigaflops", "GFLOP/s", "minGigaflops", wanted.min_gigaflops, figures)
    found = slow or _bad_link(view, member, wanted, figures)
    return f"{member.name} on node {member.node}: {found}" if found is not None else None


def _bad_link(view: View, member: Member, wanted: Preflight, figures: Mapping[str, str]) -> str | None:
    """Return what its link cannot do. Where all workers have a bad one to the only server, it is the server's.

    So as long as all that were measured have, and others are still to come, it is nobody's.
    """
    own, workers = _of_link(wanted, figures), view.job.spec.replicas
    if view.servers != 1 or workers == 1 or (member.rank and own is None):
        return own
    names = {worker.name for rank, worker in view.workers.items() if rank and worker is not None}
    of_workers = (one for one in view.group["preflight"] if one["pod"] in names)
    links = [_of_link(wanted, _figures(one)) for one in of_workers]
    if None in links:
        return own
    is_the_servers = not member.rank and len(links) >= min(workers, TOLD)
    return f"as the only server, from every worker {links[0]}" if is_the_servers else None


def _of_link(wanted: Preflight, figures: Mapping[str, str]) -> str | None:
    slow = _below("megabytesPerSecond", "MB/s", "minMegabytesPerSecond", wanted.min_megabytes_per_second, figures)
    latency, most = figures.get("latencyMilliseconds"), wanted.max_latency_milliseconds
    if slow is None and most is not None and latency is not None and float(latency) > float(most):
        return _sentence(f"{latency} ms there and back", f"at most {most}", "maxLatencyMilliseconds")
    return slow


def _below(name: str, unit: str, field: str, least: str | None, figures: Mapping[str, str]) -> str | None:
    if least is None or name not in figures or float(figures[name]) >= float(least):
        return None
    return _sentence(f"{figures[name]} {unit}", f"at least {least}", field)


def avoided(view: View, lost: Iterable[Loss] = ()) -> tuple[str, ...]:
    """Return the nodes that new pods are kept off."""
    recorded = (one.get("node") for one in view.recorded.get("restarts", ()) if one["cause"] == CAUSE)
    now = (loss.member.node for loss in lost if loss.cause == CAUSE and loss.member is not None)
    return tuple(sorted({node for node in (*recorded, *now) if node is not None}))


def _sentence(found: str, wanted: str, field: str) -> str:
    return f"found {found}, wanted {wanted} (spec.preflight.{field})"


def _figures(one: Mapping[str, Any]) -> dict[str, str]:
    """Return what was measured as the status has it; the worker counts in seconds, bytes and operations."""
    return {name: f"{one[key] * factor:.4g}" for name, key, factor in _MEASURED if one.get(key) is not None}
