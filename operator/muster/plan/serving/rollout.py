"""Which groups are made and which leave: scaling, rolling updates, and moving away from cordoned nodes.

Each group has a number below spec.replicas. While it is replaced, it may have two pods: the old one leaves when the new
one answers (surge), or as soon as `maxUnavailable` allows (in place). A group is never without a pod for longer than
one look takes, and an old pod that does not answer anyway is never worth waiting for.

Invariants, whatever is there when it is looked at:
- of the groups that answer, only so many are told to leave that spec.replicas - maxUnavailable go on answering;
- beside those that are leaving there are never more than spec.replicas + maxSurge pods, unless there were before, or
  more than maxSurge whose number is not wanted any more answer in the place of others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from muster.plan.serving import canary

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from muster.plan.serving.groups import Server
    from muster.plan.serving.revisions import Revision
    from muster.plan.serving.view import View


@dataclass(frozen=True, slots=True)
class Slot:
    """One group: the revision it is to have, its pods that may stay (`good`), and those that are to leave (`old`)."""

    group: int
    wanted: Revision
    good: tuple[Server, ...]
    old: tuple[Server, ...]

    @property
    def answers(self) -> bool:
        return any(one.answers for one in self.good + self.old)

    @property
    def is_done(self) -> bool:
        return not self.old and any(one.answers for one in self.good)


@dataclass(frozen=True, slots=True)
class Moves:
    """Which groups get a pod of which revision, and which pods leave."""

    made: tuple[tuple[int, Revision], ...] = ()
    leaving: tuple[Server, ...] = ()


def slots(view: View) -> tuple[Slot, ...]:
    """Return the groups that are wanted, each with its pods; none while it is not known what they should serve."""
    if view.target is None and view.current is None:
        return ()
    return tuple(_slot(view, group) for group in range(view.replicas))


def moves(view: View) -> Moves:
    """Return the next step."""
    groups, unavailable = slots(view), most_unavailable(view)
    surplus = _surplus(view, groups, unavailable)
    leaving = [*surplus, *(one for slot in groups for one in _useless(view, slot))]
    gone = {one.uid for one in leaving}
    left = {slot.group: [one for one in slot.good + slot.old if one.uid not in gone] for slot in groups}
    made = [(slot.group, slot.wanted) for slot in groups if not left[slot.group]]
    # What has no good pod yet, the last first: `partition` keeps the first.
    waiting = [slot for slot in reversed(groups) if left[slot.group] and not _fresh(slot, gone)]
    extra = sum(len(pods) - 1 for pods in left.values() if pods) + len(_beyond(view)) - len(surplus)
    surging = waiting[: max(0, most_surge(view) - extra)]
    made += [(slot.group, slot.wanted) for slot in surging]
    in_place = _in_place(groups, left, unavailable, {slot.group for slot in surging})
    leaving += [one for slot in in_place for one in slot.old if one.uid not in gone]
    made += [(slot.group, slot.wanted) for slot in in_place if not _fresh(slot, gone)]
    return Moves(tuple(sorted(made, key=lambda one: one[0])), tuple(leaving))


def most_surge(view: View) -> int:
    """Return how many pods there may be beyond the groups wanted."""
    return _count(view.deployment.spec.rollout.max_surge, view.replicas, math.ceil)


def most_unavailable(view: View) -> int:
    """Return how many groups may be missing. Percentages that come to nothing would let nothing happen: then one."""
    missing = _count(view.deployment.spec.rollout.max_unavailable, view.replicas, math.floor)
    return missing if missing or most_surge(view) else min(1, view.replicas)


def is_held(view: View) -> bool:
    """Whether no group gets another revision: it is paused, or was given up and is to stay as it is."""
    rollout = view.deployment.spec.rollout
    return rollout.paused or (view.failed and rollout.on_failure == "Pause")


def _count(of: int | str, replicas: int, rounded: object) -> int:
    if isinstance(of, int):
        return of
    share = replicas * int(of.removesuffix("%")) / 100
    return math.ceil(share) if rounded is math.ceil else math.floor(share)


def _slot(view: View, group: int) -> Slot:
    living = view.living(group)
    wanted = _wanted(view, group, living)
    stays = is_held(view)
    good = tuple(one for one in living if (stays or one.revision == wanted.name) and not one.cordoned)
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
    """Return the pods that may leave at once: nobody would miss their answers."""
    good = sorted(slot.good, key=lambda one: (not one.answers, one.attempt))
    useless = [] if is_held(view) else good[1:]
    if good and good[0].answers:
        return useless + list(slot.old)
    # Of those that answer, the one of the revision that is known to be good is enough.
    proven = view.current.name if view.current is not None else ""
    answering = sorted((one for one in slot.old if one.answers), key=lambda one: (one.revision != proven, one.attempt))
    return useless + [one for one in slot.old if not one.answers] + answering[1:]


def _fresh(slot: Slot, gone: Iterable[str]) -> bool:
    return any(one.uid not in set(gone) for one in slot.good)


def _in_place(groups: Iterable[Slot], left: dict[int, list[Server]], unavailable: int, surging: set[int]) -> list[Slot]:
    """Return the groups whose old pod leaves before the new one answers.

    First those whose new pod finds no place: the old one's may be the one.
    """
    answering = {slot.group for slot in groups if any(one.answers for one in left[slot.group])}
    missing = sum(slot.group not in answering for slot in groups)
    candidates = [
        slot
        for slot in groups
        if slot.group in answering
        and slot.group not in surging
        and any(one in left[slot.group] for one in slot.old)
        and all(one.unplaced_since is not None for one in slot.good)
    ]
    candidates.sort(key=lambda slot: (not slot.good, -slot.group))
    return candidates[: max(0, unavailable - missing)]


def _beyond(view: View) -> list[Server]:
    """Return the pods whose number is not wanted any more, those first that would be missed least."""
    beyond = [one for one in view.servers if one.group >= view.replicas and not one.deleting and not view.is_lost(one)]
    return sorted(beyond, key=lambda one: (one.answers, -one.group))


def _surplus(view: View, groups: Sequence[Slot], unavailable: int) -> list[Server]:
    """Return those of them that may leave: as long as too few of the others answer, they answer in their place."""
    beyond = _beyond(view)
    if not groups and view.replicas:
        return []  # it is not known what to serve: nothing is known to be too much
    missing = sum(not slot.answers for slot in groups)
    needed = max(0, missing - unavailable)
    answering = sum(one.answers for one in beyond)
    return beyond[: len(beyond) - min(needed, answering)]
