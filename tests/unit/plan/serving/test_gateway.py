"""Which revision gets how many of a gateway's requests, and who waits for that."""

from __future__ import annotations

from typing import Any

import pytest

from muster.plan.model import Refusal
from muster.plan.timestamps import to_timestamp
from tests.unit.plan.fixtures import NOW
from tests.unit.plan.serving.fixtures import decide, deployment, known, leaving, made, name_of, pod, revision

OLD, NEW = revision(1), revision(2, rollout={"restart": "now"})
A, B = name_of(OLD), name_of(NEW)
STEPS = [{"weight": 20, "pauseSeconds": 60}, {"weight": 50, "pauseSeconds": 30}]
GATEWAY = {"gateway": {"name": "inference"}}
FOUR_OLD = tuple(pod(group, group + 1, OLD) for group in range(4))
ONE_NEW = (*FOUR_OLD[:3], pod(3, 5, NEW))
HALF = (*FOUR_OLD[:2], pod(2, 6, NEW), pod(3, 5, NEW))
ALL_NEW = tuple(pod(group, group + 5, NEW) for group in range(4))


def route(generation: int = 1, *, taken: bool = True, refused: str = "", **weights: int) -> dict[str, Any]:
    """The HTTPRoute; by `taken` the gateway knows it as it is."""
    backends = [{"name": f"digits-{name}", "port": 80, "weight": weight} for name, weight in weights.items()]
    said = {"observedGeneration": generation if taken else generation - 1, "status": "True"}
    accepted = {"type": "Accepted"} | said
    if refused:
        accepted |= {"status": "False", "reason": refused, "message": "it says why"}
    parents = [{"parentRef": {"name": "inference"}, "conditions": [accepted, {"type": "ResolvedRefs"} | said]}]
    return {
        "metadata": {"name": "digits", "uid": "uid-route", "generation": generation},
        "spec": {"rules": [{"backendRefs": backends}]},
        "status": {"parents": parents},
    }


def service(of: dict[str, Any]) -> dict[str, Any]:
    labels = {"muster.dev/revision": name_of(of)}
    return {"metadata": {"name": f"digits-{name_of(of)}", "uid": f"uid-service-{name_of(of)}", "labels": labels}}


def look(*pods: dict[str, Any], canary: Any = None, status: Any = None, there: Any = None, **more: Any) -> Any:
    """`there`: the route; `status`: what is recorded besides; `more`: of what is observed, and `spec`."""
    recorded = known(OLD, NEW, madeReplicas=4, attempt=8) | (status or {})
    spec: dict[str, Any] = {"replicas": 4, "rollout": {"restart": "now"}} | more.pop("spec", {})
    spec["canary"] = {"steps": STEPS} | GATEWAY if canary is None else canary
    more.setdefault("routes", (there,) if there is not None else ())
    more.setdefault("services", (service(OLD), service(NEW)))
    more.setdefault("revisions", (OLD, NEW))
    return decide(deployment(recorded, **spec), *pods, **more)


def routed(answer: Any) -> dict[str, int] | None:
    """By the HTTPRoute that is applied; None where none is."""
    applied = [one for one in answer.besides if one["kind"] == "HTTPRoute"]
    if not applied:
        return None
    (rule,) = applied[0]["spec"]["rules"]
    return {one["name"].removeprefix("digits-"): one["weight"] for one in rule["backendRefs"]}


def taken_up(generation: int = 1, since: float = NOW - 60, **weights: int) -> dict[str, Any]:
    return {"route": {"observedGeneration": generation, "weights": weights, "since": to_timestamp(since)}}


def rollout(step: int, *, since: float | None = None) -> dict[str, Any]:
    said = {"startedAt": to_timestamp(NOW - 90), "progressedAt": to_timestamp(NOW - 30), "canaryStep": step}
    return {"rollout": said | ({"canaryStepSince": to_timestamp(since)} if since is not None else {})}


def condition(answer: Any) -> dict[str, Any]:
    return next(one for one in answer.status["conditions"] if one["type"] == "Routed")


def test_without_a_gateway_there_is_no_route_and_no_service_of_a_revision():
    answer = look(*ONE_NEW, canary={"steps": STEPS}, services=(), routes=None)
    assert {one["metadata"]["name"] for one in answer.applies if one["kind"] == "Service"} == {"digits"}
    assert (routed(answer), answer.needs) == (None, ())
    assert "Routed" not in {one["type"] for one in answer.status["conditions"]}


def test_each_revision_has_a_service_of_its_own_and_the_route_comes_once_they_are_there():
    first = look(*FOUR_OLD, services=())
    services = {one["metadata"]["name"]: one for one in (*first.applies, *first.besides) if one["kind"] == "Service"}
    assert services.keys() == {"digits", f"digits-{A}", f"digits-{B}"}
    own, everyone = services[f"digits-{A}"]["spec"], services["digits"]["spec"]
    assert own["selector"] == everyone["selector"] | {"muster.dev/revision": A}
    assert (own["ports"], own["type"]) == (everyone["ports"], "ClusterIP")
    assert (routed(first), first.needs) == (None, ("HTTPRoute",))
    assert routed(look(*FOUR_OLD)) == {A: 100}


@pytest.mark.parametrize(
    ("runtime", "paths"),
    [
        ("torch", [("PathPrefix", "/v2/models/digits")]),
        (
            "tensorflowServing",
            [
                ("PathPrefix", "/v1/models/digits"),
                ("Exact", "/v1/models/digits:predict"),
                ("Exact", "/v1/models/digits:classify"),
                ("Exact", "/v1/models/digits:regress"),
            ],
        ),
    ],
)
def test_the_route_hangs_on_the_gateway_and_takes_the_models_own_paths(runtime, paths):
    one = revision(1, runtime=runtime)
    resource = deployment(known(one), runtime=runtime, canary=GATEWAY)
    answer = decide(resource, pod(0, 1, one), revisions=(one,), services=(service(one),), routes=())
    (made_route,) = [one for one in answer.besides if one["kind"] == "HTTPRoute"]
    (parent,) = made_route["spec"]["parentRefs"]
    assert parent == {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "inference"}
    (rule,) = made_route["spec"]["rules"]
    assert [(one["path"]["type"], one["path"]["value"]) for one in rule["matches"]] == paths


OF_A_STEP = [
    ("before the step's group answers", FOUR_OLD, rollout(1), {A: 100}, {A: 100}),
    ("once it does", ONE_NEW, rollout(1), {A: 100}, {A: 80, B: 20}),
    ("while the next step's do not yet", ONE_NEW, rollout(2), {A: 80, B: 20}, {A: 80, B: 20}),
    ("once they do", HALF, rollout(2), {A: 80, B: 20}, {A: 50, B: 50}),
    ("after one of them was lost", ONE_NEW, rollout(2, since=NOW - 5), {A: 50, B: 50}, {A: 50, B: 50}),
    ("after all of them were", FOUR_OLD[:2], rollout(2, since=NOW - 5), {A: 50, B: 50}, {A: 100}),
    ("after all the others were", HALF[2:], rollout(2, since=NOW - 5), {A: 50, B: 50}, {B: 100}),
    ("after the last step", (FOUR_OLD[0], *ALL_NEW[1:]), rollout(3), {A: 50, B: 50}, {A: 25, B: 75}),
    ("which gave more than their share", ONE_NEW, rollout(3), {A: 50, B: 50}, {A: 50, B: 50}),
    ("in the end", (FOUR_OLD[0], *ALL_NEW), rollout(3), {A: 25, B: 75}, {B: 100}),
    ("while nobody answers", (), rollout(2, since=NOW - 5), {A: 50, B: 50}, {A: 50, B: 50}),
]


@pytest.mark.parametrize(
    ("pods", "status", "before", "after"), [one[1:] for one in OF_A_STEP], ids=[i[0] for i in OF_A_STEP]
)
def test_a_step_has_exactly_its_share_of_the_requests(pods, status, before, after):
    assert routed(look(*pods, status=status, there=route(**before))) == after


def test_a_revision_gets_its_first_request_only_when_it_has_answered_for_a_while():
    fresh = (*FOUR_OLD[:3], pod(3, 5, NEW, serving_since=NOW - 2))
    answer = look(*fresh, status=rollout(1), there=route(**{A: 100}))
    assert (routed(answer), answer.look_again) == ({A: 100}, 3.0)
    assert "canaryStepSince" not in answer.status["rollout"], "the step has not begun"


def test_a_step_lasts_from_when_its_share_is_given():
    answer = look(*ONE_NEW, status=rollout(1), there=route(**{A: 80, B: 20}))
    assert answer.status["rollout"]["canaryStepSince"] == to_timestamp(NOW)


@pytest.mark.parametrize("on_failure", ["Rollback", "Pause"])
def test_a_revision_that_is_given_up_gets_nothing_at_once(on_failure):
    failed = {"revision": {"current": A, "target": B, "failed": B, "failure": "slow"}} | rollout(1, since=NOW - 5)
    spec = {"rollout": {"restart": "now", "onFailure": on_failure}}
    answer = look(*ONE_NEW, status=failed, there=route(**{A: 80, B: 20}), spec=spec)
    assert (routed(answer), leaving(answer)) == ({A: 100}, [])
    assert routed(look(*ALL_NEW, status=failed, there=route(**{B: 100}), spec=spec)) == {B: 100}, "nobody else answers"


LAST_OLD = (FOUR_OLD[0], *ALL_NEW)
OLD_POD = FOUR_OLD[0]["metadata"]["name"]


@pytest.mark.parametrize(
    ("there", "status", "left", "look_again"),
    [
        (route(1, **{A: 25, B: 75}), taken_up(1, **{A: 25, B: 75}), [], None),
        (route(2, taken=False, **{B: 100}), taken_up(1, **{A: 25, B: 75}), [], None),
        (route(2, **{B: 100}), taken_up(1, **{A: 25, B: 75}), [], None),
        (route(2, **{B: 100}), taken_up(2, since=NOW - 2, **{B: 100}), [], 3.0),
        (route(2, **{B: 100}), taken_up(2, since=NOW - 5, **{B: 100}), [OLD_POD], None),
    ],
    ids=["has weight", "not taken up", "taken up just now", "a moment ago", "a while ago"],
)
def test_the_last_group_of_a_revision_leaves_when_the_gateway_has_done_without_it_for_a_while(
    there, status, left, look_again
):
    answer = look(*LAST_OLD, there=there, status=rollout(3) | status)
    assert (leaving(answer), answer.look_again, made(answer)) == (left, look_again, [])


def test_what_the_gateway_has_taken_up_is_recorded_when_it_says_so():
    before = taken_up(1, **{A: 100})
    late = look(*ONE_NEW, status=rollout(1) | before, there=route(2, taken=False, **{A: 80, B: 20}))
    assert late.status["route"] == before["route"]
    assert condition(late)["message"].endswith(f"20 % of the requests go to revision {B}, once it has taken that up")
    answer = look(*ONE_NEW, status=rollout(1) | before, there=route(2, **{A: 80, B: 20}))
    assert answer.status["route"] == taken_up(2, since=NOW, **{A: 80, B: 20})["route"]
    assert (condition(answer)["status"], condition(answer)["reason"]) == ("True", "Routed")


UNTAKEN = route(**{A: 100}) | {"status": {}}


@pytest.mark.parametrize(
    ("routes", "reason", "says"),
    [
        (None, "GatewayApiMissing", "install the Gateway API, or leave the field out"),
        ((UNTAKEN,), "WaitingForGateway", "Gateway inference has not taken HTTPRoute digits"),
        ((route(refused="NotAllowedByListeners", **{A: 100}),), "RefusedByGateway", "NotAllowedByListeners: it says"),
    ],
    ids=["no API", "no gateway", "refused"],
)
def test_without_its_gateway_no_revision_is_rolled_out_and_the_status_says_why(routes, reason, says):
    answer = look(*FOUR_OLD, routes=routes, status=rollout(1, since=NOW - 900))
    assert (made(answer), leaving(answer)) == ([], [])
    assert (answer.status["phase"], answer.status["reason"], answer.status["rollout"]["canaryStep"]) == (
        "RollingOut", reason, 1,
    )  # fmt: skip
    assert says in answer.status["message"]
    assert (condition(answer)["status"], condition(answer)["reason"]) == ("False", reason)
    assert made(look(*FOUR_OLD[:3], routes=routes)) == [(3, A)], "what is lost is replaced all the same"


def test_the_first_revision_and_a_rollback_wait_for_no_gateway():
    first = decide(deployment(replicas=2, canary=GATEWAY), routes=None)
    assert [group for group, _ in made(first)] == [0, 1]
    failed = {"revision": {"current": A, "target": B, "failed": B, "failure": "slow"}}
    assert made(look(*ONE_NEW, routes=None, status=failed)) == [(3, A)]


def test_with_two_groups_one_stays_old_in_every_step_below_a_hundred():
    steps = {"steps": [{"weight": 80}, {"weight": 100}]} | GATEWAY
    two = {"spec": {"replicas": 2}, "canary": steps, "there": route(**{A: 20, B: 80})}
    half = (FOUR_OLD[0], pod(1, 5, NEW))
    assert made(look(*half, status=rollout(1), **two)) == []
    assert made(look(*half, status=rollout(2), **two)) == [(0, B)]


def test_taken_out_of_the_spec_the_route_and_the_services_go_and_the_groups_stay():
    answer = look(*ONE_NEW, canary={"steps": STEPS}, there=route(**{A: 80, B: 20}), status=taken_up(**{A: 80, B: 20}))
    assert {(one.kind, one.name) for one in answer.deletes} == {
        ("HTTPRoute", "digits"), ("Service", f"digits-{A}"), ("Service", f"digits-{B}"),
    }  # fmt: skip
    assert "route" not in answer.status


def test_the_service_of_a_revision_goes_when_no_gateway_and_no_group_has_it_any_more():
    done = known(NEW, madeReplicas=4, attempt=8)
    more = {"there": route(2, **{B: 100}), "canary": GATEWAY}
    kept = look(*ALL_NEW, status=done | taken_up(1, **{A: 25, B: 75}), **more)
    assert [one.kind for one in kept.deletes] == []
    gone = look(*ALL_NEW, status=done | taken_up(2, **{B: 100}), **more)
    assert [(one.kind, one.name) for one in gone.deletes] == [("Service", f"digits-{A}")]


def test_while_something_else_is_refused_the_route_still_follows_who_answers():
    refusal = Refusal("quota", NOW - 1)
    answer = look(*FOUR_OLD[:3], status=rollout(1, since=NOW - 5), there=route(**{A: 80, B: 20}), refusal=refusal)
    assert (routed(answer), made(answer), answer.status["reason"]) == ({A: 100}, [], "Refused")
