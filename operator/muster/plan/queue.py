"""Who of those that wait is admitted now.

The order is by priority, then by age. Whoever fits into what is left is admitted, also past one that does not
(backfill), so that nothing stands idle for want of the right job. But one that has waited for long holds what it
could place already, and who comes after it has to fit into the rest: so it gets its turn in the end.

Pods that are to be together, in one zone or on one switch, are placed in whichever domain takes the most of them.

Devices that pods claim are not counted. So gangs that claim some are admitted one at a time, the next one when the
scheduler has found those of the one before, or has not within a minute: no two have a part of theirs each.

Invariants: what is admitted together fits together; nobody is admitted with fewer pods than it needs; of two that
ask for the same, the one with the better place in the order is admitted first.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from muster.plan import claims, requests
from muster.plan.model import Admission

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from muster.plan.capacity import Capacity
    from muster.plan.model import Demand, Reference

K = TypeVar("K")

HOLDS_AFTER = 300.0
"""Seconds of waiting after which a job holds room that is too small for it yet."""

MALFORMED = (AttributeError, KeyError, TypeError, ValueError)
"""What comes of counting pods whose template says something that no pod can have: templates are taken as they are."""


@dataclass(frozen=True, slots=True)
class Priorities:
    """The values of the cluster's PriorityClasses, and that of pods that name none."""

    values: Mapping[str, int]
    default: int = 0

    def of(self, demand: Demand) -> int:
        if demand.priority_class is None:
            return self.default
        return self.values.get(demand.priority_class, self.default)


@dataclass(frozen=True, slots=True)
class Place:
    """How many of a demand's pods found a place, and in which domain where they are to be together."""

    pods: int
    domain: str | None = None


def admit(
    demands: Mapping[K, Demand],
    missing: Mapping[K, Sequence[Reference]],
    capacity: Capacity,
    priorities: Priorities,
    now: float,
) -> tuple[dict[K, Admission], Capacity]:
    """Return the answer to each demand, and what is left once those that are admitted have their places.

    `missing` has of each demand the objects that it needs and that are not there, as far as that is known.
    """
    answers: dict[K, Admission] = {}
    offered, holder = capacity, None
    for key, demand in sorted(demands.items(), key=lambda item: _place_in_line(item[1], priorities)):
        if missing.get(key):
            answers[key] = _lacks(missing[key])
            continue
        if demand.uncounted is not None:
            answers[key] = replace(demand.uncounted, priority=priorities.of(demand))
            continue
        try:
            if capacity.unsettled and _claims(demand, capacity):
                answers[key] = _waits_for_others(demand)
                continue
            answers[key], rest = _counted(demand, offered, capacity, holder)
        except MALFORMED:
            answers[key] = _uncountable(demand)
            continue
        if answers[key].granted:
            offered, capacity = rest, taken(demand, capacity, answers[key].domain)
        elif now - demand.since >= HOLDS_AFTER and answers[key].reason != NEVER_FITS:
            offered, holder = rest, holder or demand
    return answers, capacity


def place(demand: Demand, capacity: Capacity, domain: str | None = None) -> tuple[Place, Capacity]:
    """Find places for the demand's pods, as many as there are; return where, and what is left then.

    `domain` is the one to use, where that has been decided.
    """
    if demand.topology_key is None:
        placed, left = capacity.place(demand.pods)
        return Place(placed), left
    domains = capacity.domains(demand.topology_key)
    if domain is not None:
        domains = {domain: domains.get(domain, [])}
    best = Place(0), capacity
    for value, nodes in domains.items():
        placed, left = capacity.place(demand.pods, among=nodes)
        if placed > best[0].pods:
            best = Place(placed, value), left
    return best


def taken(demand: Demand, capacity: Capacity, domain: str | None) -> Capacity:
    """Return what is left once the demand has its places."""
    try:
        left = place(demand, capacity, domain)[1]
        return replace(left, unsettled=left.unsettled or _claims(demand, capacity))
    except MALFORMED:
        return capacity


def _claims(demand: Demand, capacity: Capacity) -> bool:
    return any(claims.claims_devices(spec, capacity.claimable) for spec in demand.pods)


def _waits_for_others(demand: Demand) -> Admission:
    message = f"wanted: {_asked_for(demand)}; the scheduler looks for devices that others claim, who came first"
    return Admission(granted=False, reason="Queued", message=message)


def _place_in_line(demand: Demand, priorities: Priorities) -> tuple[int, float, str]:
    return -priorities.of(demand), demand.since, demand.name


NEVER_FITS = "NeverFits"


def _counted(
    demand: Demand, offered: Capacity, capacity: Capacity, holder: Demand | None
) -> tuple[Admission, Capacity]:
    """Return the answer, and what is left of what is offered with its pods in their places, be it some of them."""
    there, rest = place(demand, offered)
    if there.pods >= demand.least:
        return _granted(demand, there), rest
    return _denied(demand, there, capacity, holder), rest


def _uncountable(demand: Demand) -> Admission:
    """The API server refuses such pods, and says what is wrong with them."""
    message = "its pods are not as Kubernetes has them, so no room was counted: the API server says why"
    return Admission(granted=True, reason="Uncountable", message=message, pods=len(demand.pods))


def _granted(demand: Demand, there: Place) -> Admission:
    some = "" if there.pods == len(demand.pods) else f"{there.pods} of "
    where = f" in {there.domain}" if there.domain else ""
    message = f"there is room for {some}{_asked_for(demand)}{where}"
    return Admission(granted=True, reason="Admitted", message=message, domain=there.domain, pods=there.pods)


def _lacks(references: Sequence[Reference]) -> Admission:
    first = references[0]
    reason = f"{first.kind}{'Unknown' if first.refused else 'NotFound'}"
    return Admission(granted=False, reason=reason, message="; ".join(map(_why, references)))


def _why(reference: Reference) -> str:
    what = f"{reference.kind} {reference.name}"
    if reference.refused:
        return f"{reference.field}: it is not known whether there is a {what}: {reference.refused}"
    return f"{reference.field}: there is no {what}: {reference.remedy}"


def _denied(demand: Demand, there: Place, capacity: Capacity, holder: Demand | None) -> Admission:
    wanted = f"wanted: {_asked_for(demand)}{_together(demand)}"
    if demand.topology_key is not None and not capacity.domains(demand.topology_key):
        message = f"{wanted}; no node has this label"
        return Admission(granted=False, reason=NEVER_FITS, message=message)
    ever = place(demand, capacity.empty())[0].pods
    if ever < demand.least:
        message = f"{wanted}; even with nothing else running the nodes that take it have room for {ever}"
        return Admission(granted=False, reason=NEVER_FITS, message=message)
    if holder is not None and place(demand, capacity)[0].pods >= demand.least:
        message = f"{wanted}; there is room, but it is kept for {holder.name}, which has waited for longer"
        return Admission(granted=False, reason="Queued", message=message)
    where = f" in {there.domain}" if there.domain else ""
    message = f"{wanted}; room now: {there.pods}{where}, so none was started"
    return Admission(granted=False, reason="InsufficientCapacity", message=message)


def _asked_for(demand: Demand) -> str:
    """Return how many of each kind: parameter servers ask for no devices, and come first."""
    kinds = Counter(requests.describe(requests.of_pod(spec)) for spec in demand.pods)
    (each, count), *servers = reversed(kinds.items())
    workers = f"{count} worker{'s' if count > 1 else ''} ({each} each)"
    return " and ".join(
        [*(f"{count} server{'s' if count > 1 else ''} ({each} each)" for each, count in servers), workers]
    )


def _together(demand: Demand) -> str:
    return f" with one value of {demand.topology_key}" if demand.topology_key is not None else ""
