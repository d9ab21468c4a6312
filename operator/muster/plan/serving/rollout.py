"""Which groups are made and which leave: scaling, rolling updates, moving away from cordoned nodes and from trouble.

Each group has a number below spec.replicas, and a server, which is one pod or several. While it is replaced it may have
two: the old one leaves when the new one answers (surge), or as soon as `maxUnavailable` allows (in place). A group is
never without one for longer than one look takes, as long as there is room; and an old one that does not answer anyway
is never worth waiting for.

Invariants, whatever is there when it is looked at:
- of the groups that answer, only so many are told to leave that spec.replicas - maxUnavailable go on answering;
- beside those that are leaving there are never more than spec.replicas + maxSurge servers, unless there were before (a
  lost node came back), or more than maxSurge whose number is not wanted any more answer in the place of others; but a
  group that has none at all always gets one, sooner or later, or two where they cannot be heard.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from muster.plan.serving import canary, gateway

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from muster.plan.serving.groups import Server
    from muster.plan.serving.revisions import Revision
    from muster.plan.serving.view import View


@dataclass(frozen=True, slots=True)
class Slot:
    """One group: the revision it is to have, what of it may stay (`good`), and what is to leave (`old`)."""

    group: int
    wanted: Revision
    good: tuple[Server, ...]
    old: tuple[Server, ...]

    @property
    def servers(self) -> tuple[Server, ...]:
        return self.good + self.old

    @property
    def answers(self) -> bool:
        return any(one.answers for one in self.servers)

    @property
    def is_done(self) -> bool:
        return not self.old and self.answers

    def without(self, gone: Collection[str]) -> Slot:
        """Return what is left of it once those of these names have left."""
        good, old = (tuple(one for one in those if one.name not in gone) for those in (self.good, self.old))
        return replace(self, good=good, old=old)


@dataclass(frozen=True, slots=True)
class Moves:
    """Which groups get a server of which revision, and which servers leave."""

    made: tuple[tuple[int, Revision], ...] = ()
    leaving: tuple[Server, ...] = ()


def slots(view: View) -> tuple[Slot, ...]:
    """Return the groups that are wanted, each with its servers; none while it is not known what these should serve."""
    if view.target is None and view.current is None:
        return ()
    return tuple(_slot(view, group) for group in range(view.replicas))


def moves(view: View, paused: Collection[int] = ()) -> Moves:
    """Return the next step. `paused`: groups that get no server now, whatever they have."""
    wanted, unavailable = slots(view), most_unavailable(view)
    beyond = _beyond(view)
    surplus = beyond[: len(beyond) - _stand_ins(view, wanted, beyond)]
    useless = [one for slot in wanted for one in _useless(view, slot)]
    gone = {one.name for one in useless}
    groups = [slot.without(gone) for slot in wanted]
    unheard = view.unheard
    missing = [slot for slot in groups if not (slot.servers or slot.group in paused or slot.group in unheard)]
    extra = sum(len(slot.servers) - 1 for slot in groups if slot.servers) + len(beyond) - len(surplus)
    # The last first: `partition` keeps the first.
    waiting = [slot for slot in reversed(groups) if slot.old and not slot.good and slot.group not in paused]
    surging = waiting[: max(0, most_surge(view) - extra)]
    # Where there is no room for a surge, what is old makes some.
    others = [slot for slot in groups if slot.group not in paused and (slot not in surging or view.denied is not None)]
    in_place = _in_place(others, _missing(groups), unavailable)
    made = [*missing, *surging, *(slot for slot in in_place if not slot.good and slot not in surging)]
    leaving = [*surplus, *useless, *(one for slot in in_place for one in slot.old)]
    return Moves(tuple((slot.group, slot.wanted) for slot in sorted(made, key=lambda slot: slot.group)), tuple(leaving))


def most_surge(view: View) -> int:
    """Return how many servers there may be beyond the groups wanted."""
    return _count(view.deployment.spec.rollout.max_surge, view.replicas, up=True)


def most_unavailable(view: View) -> int:
    """Return how many groups may be missing. Percentages that come to nothing would let nothing happen: then one."""
    missing = _count(view.deployment.spec.rollout.max_unavailable, view.replicas, up=False)
    return missing if missing or most_surge(view) else min(1, view.replicas)


def is_held(view: View) -> bool:
    """Whether no group gets another revision: it is paused, was given up and is to stay, or has no gateway for it."""
    rollout = view.deployment.spec.rollout
    if rollout.paused or view.failed:
        return rollout.paused or rollout.on_failure == "Pause"
    return view.is_rolling and view.current is not None and gateway.withheld(view) is not None


def _count(of: int | str, replicas: int, *, up: bool) -> int:
    """Return a number of groups, or such a share of them, rounded."""
    if isinstance(of, int):
        return of
    share = replicas * int(of.removesuffix("%")) / 100
    return math.ceil(share) if up else math.floor(share)


def _slot(view: View, group: int) -> Slot:
    living = view.living(group)
    wanted = _wanted(view, group, living)
    stays = is_held(view)
    of_revision = (one for one in living if stays or one.revision == wanted.name)
    good = tuple(one for one in of_revision if not (one.cordoned or view.is_worn_out(one)))
    return Slot(group, wanted, good, tuple(one for one in living if one not in good))


def _wanted(view: View, group: int, living: Sequence[Server]) -> Revision:
    known = view.current or view.target
    target = view.target or view.current
    assert known is not None, "asked of slots alone"
    assert target is not None, "asked of slots alone"
    if is_held(view):
        kept = next((one for one in sorted(living, key=lambda one: not one.answers)), None)
        return view.revisions.get(kept.revision, known) if kept is not None else known
    if group < max(view.deployment.spec.rollout.partition, canary.kept(view)) or view.failed:
        return known
    return target


def _useless(view: View, slot: Slot) -> list[Server]:
    """Return those that may leave at once: nobody would miss their answers."""
    good = sorted(slot.good, key=lambda one: (not one.answers, one.attempt))
    useless = [] if is_held(view) else good[1:]
    if good and good[0].answers:
        return useless + list(slot.old)
    # Of those that answer, the one of the revision that is known to be good is enough.
    proven = view.current.name if view.current is not None else ""
    answering = sorted((one for one in slot.old if one.answers), key=lambda one: (one.revision != proven, one.attempt))
    return useless + [one for one in slot.old if not one.answers] + answering[1:]


def _missing(groups: Iterable[Slot]) -> int:
    return sum(not slot.answers for slot in groups)


def _in_place(groups: Iterable[Slot], missing: int, unavailable: int) -> list[Slot]:
    """Return the groups whose old server leaves before the new one answers.

    First those whose new one finds no place: the old one's may be the one.
    """
    candidates = [
        slot for slot in groups if slot.old and slot.answers and all(one.unplaced is not None for one in slot.good)
    ]
    candidates.sort(key=lambda slot: (not slot.good, -slot.group))
    return candidates[: max(0, unavailable - missing)]


def _beyond(view: View) -> list[Server]:
    """Return those whose number is not wanted any more, those first that would be missed least."""
    beyond = [one for one in view.servers if one.group >= view.replicas and not view.is_over(one)]
    return sorted(beyond, key=lambda one: (one.answers, -one.group))


def _stand_ins(view: View, groups: Sequence[Slot], beyond: Sequence[Server]) -> int:
    """Return how many of those answer in the place of groups that do not, and stay until these do."""
    if not groups and view.replicas:
        return len(beyond)  # it is not known what to serve: nothing is known to be too much
    needed = max(0, _missing(groups) - most_unavailable(view))
    return min(needed, sum(one.answers for one in beyond))
