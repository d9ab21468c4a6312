"""What to do about a ModelDeployment now.

Invariants, whatever was lost, late or stale before this call:
- what answers is told to leave only as `rollout` allows, whatever the reason;
- a group that is as the spec wants it, on nodes that take pods, is never touched;
- a group has all of its pods, made together, or none stays; no pod is ever made in the place of one of them;
- what a lost pod tells is recorded in the status before its object is removed;
- the status says that something answers only while something does.

What a gateway sends where has invariants of its own: see `gateway`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from muster.api import ModelDeployment
from muster.api.base import unreported
from muster.api.errors import explain
from muster.plan import refusals
from muster.plan.drift import is_outdated
from muster.plan.model import Event, Plan, Target
from muster.plan.removal import of_living, removal
from muster.plan.serving import (
    autoscaling,
    canary,
    compression,
    disruption,
    failovers,
    gateway,
    model,
    pacing,
    placement,
    pods,
    progress,
    reachability,
    revisions,
    rollout,
    status,
)
from muster.plan.serving.compression import Work
from muster.plan.serving.events import events
from muster.plan.serving.runtimes.torch import HTTP_PORT
from muster.plan.serving.view import View, view
from muster.plan.trained_model import Missing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from muster.plan.model import Delete, Manifest, Observed, Refusal, Settings
    from muster.plan.serving.failovers import Loss
    from muster.plan.serving.groups import Server
    from muster.plan.serving.revisions import Revision


def plan(observed: Observed, settings: Settings, now: float) -> Plan:
    """Return what to do about the deployment: see the module's invariants."""
    try:
        deployment = ModelDeployment.model_validate(unreported(observed.resource))
    except ValidationError as error:
        return _refuse(observed.resource, explain(error), now)
    found, work = _target(deployment, observed, settings, now)
    missing = found if isinstance(found, Missing) else None
    seen = view(deployment, observed, None if isinstance(found, Missing) else found, now)
    if missing is not None and seen.current is None:
        actions = Plan(creates=work.creates, deletes=work.deletes, look_again=work.look_again)
        return _write(seen, actions, status.waiting(seen, missing), ())
    return _serve(seen, observed, missing, work)


def _target(
    deployment: ModelDeployment, observed: Observed, settings: Settings, now: float
) -> tuple[Revision | Missing, Work]:
    """Return the revision that the spec asks for, as it is kept or as it is to be; or what it lacks.

    And what is to be done for it, before it can be or once it is.
    """
    kept = revisions.known(observed.revisions)
    known = revisions.like(revisions.shape(deployment), kept)
    if known is not None:
        return known, Work(deletes=compression.clear(observed))
    found: Mapping[str, Any] | Missing = model.find(deployment, observed.named)
    work = Work(deletes=compression.clear(observed))
    if not isinstance(found, Missing) and compression.is_wanted(deployment):
        found, work = compression.compressed(deployment, found, observed, settings, now)
    return found if isinstance(found, Missing) else revisions.new(deployment, found, settings, kept), work


def _serve(seen: View, observed: Observed, missing: Missing | None, work: Work) -> Plan:
    """Replace what is lost or old, let the rest alone, and say how it is."""
    slots = rollout.slots(seen)
    if missing is None and progress.is_whole(seen, slots):
        seen = replace(seen, current=seen.target)
    lost = failovers.losses(seen, slots)
    paused = failovers.pauses(seen, lost)
    intended = rollout.moves(seen, paused)
    step = gateway.safe(seen, intended)
    frame, besides = _frame(seen, observed), _besides(seen, observed)
    weights = gateway.weights(seen, canary.share(seen, progress.updated(seen, slots)), intended.leaving)
    routing = gateway.to_apply(seen, observed.services, weights)
    pause = _pause(seen, observed.refusal) if step.made or frame or besides or routing else None
    pause_besides = refusals.pause(observed.refusal, seen.now, besides=True) if besides or routing else None
    made, demand = placement.admitted(seen, () if pause is not None else step.made)
    creates = () if pause is not None else (*work.creates, *_rest_of_groups(seen), *_new_groups(seen, made))
    wanted = status.active(seen, slots, lost, [group for group, _ in made], missing)
    held = pause if pause is not None else pause_besides
    if held is not None and observed.refusal is not None:
        wanted |= {"reason": "Refused", "message": f"what it consists of is refused: {observed.refusal.message}"}
    actions = Plan(
        deletes=(
            *work.deletes,
            *_leaving(step.leaving),
            *_remains(seen),
            *_old_revisions(seen),
            *autoscaling.to_delete(seen.deployment, observed.autoscalers),
            *gateway.to_delete(seen, observed.services),
        ),
        applies=frame if pause is None else (),
        creates=creates,
        # Whatever else is refused: a route that is there must not lead to nobody.
        besides=(*besides, *routing) if held is None else routing if observed.routes else (),
        demand=demand,
        parts=(
            *reachability.parts(seen.servers, seen.deployment.metadata.namespace, seen.now, seen.unheard),
            *reachability.opened(creates, seen.now),
        ),
        scrape=_targets(seen),
        look_again=_soonest(
            held,
            work.look_again,
            *paused.values(),
            failovers.patience(seen),
            progress.seconds_left(seen, slots),
            canary.seconds_left(seen),
            gateway.seconds_left(seen, intended.leaving),
            _until_cut_off(seen, observed),
            _until_taken_back(seen),
        ),
        needs=gateway.needs(seen),
    )
    return _write(seen, actions, wanted, lost)


def _pause(seen: View, refusal: Refusal | None) -> float | None:
    """Return how long no pods are made; a group that was lost since they were refused does not wait for it."""
    if refusal is not None and failovers.newest(seen) > refusal.at:
        return None
    return refusals.pause(refusal, seen.now)


def _besides(seen: View, observed: Observed) -> tuple[Manifest, ...]:
    """Return what no pod waits for, as far as it is not as it should be."""
    budget = pods.build_budget(seen.deployment, disruption.least(seen))
    outdated = (budget,) if is_outdated(budget, observed.budgets) else ()
    return (*outdated, *autoscaling.to_apply(seen.deployment, observed.autoscalers))


def _frame(seen: View, observed: Observed) -> tuple[Manifest, ...]:
    """Return what there has to be before pods are, as far as it is not as it should be."""
    target = seen.target
    wanted = [(pods.build_service(seen.deployment), observed.services)]
    if target is not None:
        wanted.append((revisions.build(seen.deployment, target), observed.revisions))
    if any(one is not None and one.size > 1 for one in (target, seen.current)):
        wanted.append((pods.build_groups_service(seen.deployment), observed.services))
    return tuple(one for one, among in wanted if is_outdated(one, among))


def _new_groups(seen: View, made: Iterable[tuple[int, Revision]]) -> Iterator[Manifest]:
    shunned = sorted({pod.node for one in seen.servers for pod in one.pods if pod.cut_off and pod.node is not None})
    for number, (group, revision) in enumerate(made, 1):
        yield from pods.build_group(seen.deployment, revision, group, seen.attempt + number, shunned)


def _rest_of_groups(seen: View) -> Iterator[Manifest]:
    """Return the pods of groups that an operator was lost in the middle of making."""
    for one in seen.servers:
        revision = seen.revisions.get(one.revision)
        if one.missing and not seen.is_over(one) and revision is not None:
            group = pods.build_group(seen.deployment, revision, one.group, one.attempt)
            yield from (pod for pod in group if pod["metadata"]["name"] in one.missing)


def _leaving(leaving: Iterable[Server]) -> tuple[Delete, ...]:
    return of_living(pod for one in leaving for pod in one.pods)


def _remains(seen: View) -> Iterator[Delete]:
    """Return what is left of groups that will not answer again: of lost pods, once it is recorded why they were lost.

    What is left of a group that is cut off may answer again: it leaves when there is another.
    """
    for one in seen.servers:
        lost = seen.lost_pods(one)
        if failovers.is_recorded(seen, one) or one.group >= seen.made_replicas:
            yield from map(removal, lost)
        if seen.is_over(one) or (one.cut_off and one.size > 1 and seen.living(one.group)):
            rest = (pod for pod in one.pods if not (pod in lost or pod.cut_off or pod.deleting))
            yield from of_living(rest)


def _old_revisions(seen: View) -> tuple[Delete, ...]:
    used = {one.revision for one in seen.servers} | {one.name for one in (seen.target, seen.current) if one is not None}
    return revisions.surplus(seen.deployment, seen.revisions, used)


def _targets(seen: View) -> tuple[Target, ...]:
    return tuple(
        Target(pod.uid, pod.address, HTTP_PORT, steady=True)
        for one in seen.servers
        if one.revision not in seen.revisions or seen.revisions[one.revision].tells
        for pod in one.pods
        if pod.address is not None and pod.running and pod.serving_since is not None
    )


def _until_cut_off(seen: View, observed: Observed) -> float | None:
    patience = seen.deployment.spec.failover.unreachable_seconds
    everyone = (pod for one in seen.servers for pod in one.pods)
    left = (reachability.seconds_left(pod, observed, patience, seen.now) for pod in everyone)
    return min((seconds for seconds in left if seconds), default=None)


def _until_taken_back(seen: View) -> float | None:
    left = (placement.seconds_left(one, seen.now) for one in seen.servers)
    return min((seconds for seconds in left if seconds), default=None)


def _refuse(resource: Manifest, message: str, now: float) -> Plan:
    recorded = resource.get("status") or {}
    refusal = status.refused(recorded, resource["metadata"].get("generation", 1), message, now)
    if refusal == recorded:
        return Plan()
    return Plan(status=refusal, events=(Event("Warning", "InvalidSpec", message),))


def _write(seen: View, actions: Plan, wanted: Manifest, lost: tuple[Loss, ...]) -> Plan:
    """Add the status to write, if any, and when to look again."""
    now, later = pacing.settle(seen, wanted, asks=actions.demand is not None)
    return replace(
        actions,
        status=now,
        events=events(seen.recorded, wanted, lost) if now is not None else (),
        look_again=_soonest(actions.look_again, later),
    )


def _soonest(*moments: float | None) -> float | None:
    return min((moment for moment in moments if moment is not None), default=None)
