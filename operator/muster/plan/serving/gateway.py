"""Which revision gets how many of the requests that come through a Gateway: an HTTPRoute, and what is behind it.

Each revision has a Service of its own, whose selector never changes. The HTTPRoute names those that get requests. That
a gateway follows takes a moment, so a revision gets its first request when it has answered for a while, and its last
group leaves when the gateway has done without it for a while.

Invariants, whatever is lost or late:
- no write gives weight to a revision of which no group answers, unless none answers at all;
- no group is told to leave that is the last of a revision to which a gateway may send requests, as long as there is
  another revision for them;
- a revision that is given up gets none, as soon as another answers.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from muster.plan.conditions import find
from muster.plan.drift import is_outdated
from muster.plan.model import Delete
from muster.plan.serving import identity, pods
from muster.plan.timestamps import to_epoch, to_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from muster.api import ModelDeployment
    from muster.plan.model import Manifest
    from muster.plan.serving.groups import Server
    from muster.plan.serving.rollout import Moves
    from muster.plan.serving.view import View

GROUP = "gateway.networking.k8s.io"
KIND = "HTTPRoute"
FIELD = "spec.canary.gateway"
SETTLED = 5.0
"""Seconds that endpoints and gateways may take to follow: Traefik, for one, gathers changes for two."""
_VERBS = ("predict", "classify", "regress")
"""What TensorFlow's model server is asked: `linear:predict` is no path below `linear`."""


class Withheld(NamedTuple):
    """Why no other revision is rolled out."""

    reason: str
    message: str


def needs(view: View) -> tuple[str, ...]:
    return (KIND,) if view.gateway is not None else ()


def withheld(view: View) -> Withheld | None:
    """Return why the gateway's weights cannot be had; None where they can, or are not asked for."""
    if view.gateway is None:
        return None
    gateway, route = f"Gateway {view.gateway}", f"{KIND} {view.deployment.metadata.name}"
    if view.routes is None:
        lacking = f"{FIELD}: the cluster has no {KIND}s of {GROUP}/v1"
        return Withheld("GatewayApiMissing", f"{lacking}: install the Gateway API, or leave the field out")
    parents = list(_parents(view))
    if not parents:
        return Withheld("WaitingForGateway", f"{FIELD}: {gateway} has not taken {route}: is it there, and served?")
    for parent in parents:
        for kind in ("Accepted", "ResolvedRefs"):
            said = find(parent["conditions"], kind)
            if said is not None and said["status"] != "True":
                why = f"{said['reason']}: {said['message']}"
                return Withheld("RefusedByGateway", f"{FIELD}: {gateway} does not serve {route}: {why}")
    return None


def weights(view: View, share: int, leaving: Iterable[Server]) -> Mapping[str, int]:
    """Return the per cent of the requests that each revision is to get.

    `share`: that of the target, as soon as it and another one answer. `leaving`: who is about to.
    """
    current = view.current.name if view.current is not None else None
    target = view.target.name if view.target is not None else None
    stays = _staying(view, leaving)
    if not stays:
        return view.weights or {str(current or target): 100}
    order = {target: 2, current: 0}
    first = min(stays, key=lambda one: (order.get(one, 1), -stays[one], one))
    if target is None or target == first or target not in stays or not (target in view.weights or _settled(view)):
        share = 0
    return {name: weight for name, weight in ((first, 100 - share), (str(target), share)) if weight}


def safe(view: View, moves: Moves) -> Moves:
    """Return what of it may be done now: who may be sent requests stays, and nobody is made in its place."""
    missed = _missed(view, moves.leaving)
    if not missed:
        return moves
    made = tuple((group, revision) for group, revision in moves.made if not view.living(group))
    return replace(moves, made=made, leaving=tuple(one for one in moves.leaving if one not in missed))


def seconds_left(view: View, leaving: Iterable[Server]) -> float | None:
    """Return after how many seconds a revision may get requests, or its last group leave; None where more has to be."""
    if view.gateway is None:
        return None
    first = _first_answer(view)
    left = [] if first is None else [first + SETTLED - view.now]
    if _is_taken_up(view) and _missed(view, leaving):
        left.append(to_epoch(view.recorded["route"]["since"]) + SETTLED - view.now)
    return min((seconds for seconds in left if seconds > 0), default=None)


def to_apply(view: View, services: Iterable[Manifest], wanted: Mapping[str, int]) -> tuple[Manifest, ...]:
    """Return what is not as it should be: the Services of the revisions, then the route, once those are there."""
    if view.gateway is None:
        return ()
    there = tuple(services)
    of_revisions = (_build_service(view.deployment, one) for one in sorted(_in_use(view)))
    outdated = tuple(one for one in of_revisions if is_outdated(one, there))
    route, names = _build_route(view.deployment, view.gateway, wanted), {one["metadata"]["name"] for one in there}
    is_backed = all(_service_name(view.deployment, one) in names for one in wanted)
    if view.routes is None or not is_backed or not is_outdated(route, view.routes):
        return outdated
    return (*outdated, route)


def to_delete(view: View, services: Iterable[Manifest]) -> Iterator[Delete]:
    """Return the Services of revisions that nothing uses; with no gateway asked for, all of them and the route."""
    used = _in_use(view) if view.gateway is not None else set()
    for one in services:
        revision = one["metadata"]["labels"].get(identity.REVISION)
        if revision is not None and revision not in used and "deletionTimestamp" not in one["metadata"]:
            yield Delete("Service", one["metadata"]["name"], one["metadata"]["uid"])
    for one in view.routes or () if view.gateway is None else ():
        if "deletionTimestamp" not in one["metadata"]:
            yield Delete("HTTPRoute", one["metadata"]["name"], one["metadata"]["uid"])


def record(view: View) -> Manifest | None:
    """Return for the status what the gateway was last known to do, and since when."""
    before: Manifest | None = view.recorded.get("route")
    if view.gateway is None or not view.routes:
        return before if view.gateway is not None else None
    (route,) = view.routes
    generation = route["metadata"].get("generation", 1)
    said = [one.get("observedGeneration", 0) for parent in _parents(view) for one in parent["conditions"]]
    if _is_taken_up(view) or min(said, default=generation) < generation or not view.weights:
        return before
    return {"observedGeneration": generation, "weights": dict(view.weights), "since": to_timestamp(view.now)}


def sentence(view: View) -> str:
    """Return who gets how much."""
    shares = ", ".join(f"{weight} % of the requests go to revision {name}" for name, weight in view.weights.items())
    late = "" if _is_taken_up(view) else ", once it has taken that up"
    return f"Gateway {view.gateway}: {shares}{late}"


def _staying(view: View, leaving: Iterable[Server]) -> Counter[str]:
    """Return how many groups of each revision answer and go on doing so."""
    gone = {one.name for one in leaving}
    there = (one for one in view.servers if one.answers and not view.is_over(one) and one.name not in gone)
    return Counter(one.revision for one in there)


def _missed(view: View, leaving: Iterable[Server]) -> list[Server]:
    """Return those to which a gateway may send requests that others could answer."""
    stays = _staying(view, leaving)
    if view.gateway is None or not view.routes or not stays:
        return []
    return [one for one in leaving if one.answers and one.revision not in stays and not _is_without(view, one.revision)]


def _first_answer(view: View) -> float | None:
    """Return when the target's first group became ready; None while none answers."""
    target = view.target.name if view.target is not None else None
    ours = (one for one in view.servers if one.answers and one.revision == target)
    return min((max(pod.serving_since or view.now for pod in one.pods) for one in ours), default=None)


def _settled(view: View) -> bool:
    since = _first_answer(view)
    return since is not None and view.now - since >= SETTLED


def _is_taken_up(view: View) -> bool:
    """Whether it is recorded that the gateway knows the route as it is."""
    recorded = (view.recorded.get("route") or {}).get("observedGeneration")
    return any(one["metadata"].get("generation", 1) == recorded for one in view.routes or ())


def _is_without(view: View, revision: str) -> bool:
    """Whether the gateway has sent nothing to this revision for a while."""
    if not _is_taken_up(view) or revision in view.weights:
        return False
    return view.now - to_epoch(view.recorded["route"]["since"]) >= SETTLED


def _parents(view: View) -> Iterator[Manifest]:
    """Return what the gateway's controller says of the route."""
    for route in view.routes or ():
        for parent in (route.get("status") or {}).get("parents") or ():
            if parent["parentRef"]["name"] == view.gateway:
                yield parent


def _in_use(view: View) -> set[str]:
    revisions = {one.name for one in (view.target, view.current) if one is not None}
    routed = {*view.weights, *(view.recorded.get("route") or {}).get("weights", ())}
    return revisions | routed | {one.revision for one in view.servers}


def _service_name(deployment: ModelDeployment, revision: str) -> str:
    return f"{deployment.metadata.name}-{revision}"


def _build_service(deployment: ModelDeployment, revision: str) -> Manifest:
    """Return the deployment's Service, for one revision alone."""
    service, of_revision = pods.build_service(deployment), {identity.REVISION: revision}
    metadata = identity.metadata(deployment, _service_name(deployment, revision))
    return {
        **service,
        "metadata": metadata | {"labels": metadata["labels"] | of_revision},
        "spec": {**service["spec"], "type": "ClusterIP", "selector": identity.leaders(deployment) | of_revision},
    }


def _build_route(deployment: ModelDeployment, gateway: str, wanted: Mapping[str, int]) -> Manifest:
    backends = [
        {"name": _service_name(deployment, revision), "port": deployment.spec.service.port, "weight": weight}
        for revision, weight in wanted.items()
    ]
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": KIND,
        "metadata": identity.metadata(deployment, deployment.metadata.name),
        "spec": {
            "parentRefs": [{"group": GROUP, "kind": "Gateway", "name": gateway}],
            "rules": [{"matches": list(_matches(deployment)), "backendRefs": backends}],
        },
    }


def _matches(deployment: ModelDeployment) -> Iterator[dict[str, Any]]:
    """Return the model's own paths: others of the protocol are about a server, and a gateway has many behind it."""
    path = urlsplit(pods.url(deployment)).path
    yield {"path": {"type": "PathPrefix", "value": path}}
    for verb in _VERBS if deployment.spec.runtime == "tensorflowServing" else ():
        yield {"path": {"type": "Exact", "value": f"{path}:{verb}"}}
