"""Whatever is asked, lost or cut short: nobody who is missed leaves, the status is true, and the end is the same."""

from __future__ import annotations

from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st

from muster.plan.serving.canary import WINDOW
from muster.plan.serving.progress import TRIES
from tests.unit.plan.serving.simulated import BROKEN, GATEWAY, Simulated, weighted_by

texts = st.sampled_from(["", "a", "b", BROKEN])
rollouts = st.fixed_dictionaries(
    {"restart": texts},
    optional={
        "maxSurge": st.sampled_from([1, 2, "50%"]),
        "maxUnavailable": st.sampled_from([0, 1, "50%"]),
        "partition": st.integers(0, 2),
        "paused": st.booleans(),
        "onFailure": st.sampled_from(["Rollback", "Pause"]),
    },
)
canaries = st.none() | st.lists(
    st.fixed_dictionaries({"weight": st.integers(1, 100), "pauseSeconds": st.sampled_from([0, 5])}), max_size=2
).map(lambda steps: {"steps": steps, "analysis": {"maxErrorRate": "0.1"}})
by_gateway = canaries.map(lambda canary: (canary or {}) | {"gateway": {"name": GATEWAY}})
numbers = st.integers(0, 9)
sizes = st.sampled_from([1, 2])
steps = st.one_of(
    st.tuples(st.just("reconcile"), st.none() | st.integers(0, 4)),
    st.tuples(st.just("advance")),
    st.tuples(st.just("edit"), st.fixed_dictionaries({"rollout": rollouts})),
    st.tuples(st.just("edit"), st.fixed_dictionaries({"canary": canaries | by_gateway})),
    st.tuples(st.just("edit"), st.sampled_from([{"failover": {"maxGroupRestarts": most}} for most in (0, 1, 10)])),
    st.tuples(st.just("edit"), st.fixed_dictionaries({"replicas": st.integers(0, 5)})),
    st.tuples(st.just("edit"), st.fixed_dictionaries({"suspend": st.booleans()})),
    st.tuples(st.just("edit"), st.fixed_dictionaries({"group": st.fixed_dictionaries({"size": sizes})})),
    st.tuples(st.just("delete_pod"), numbers, st.booleans()),
    st.tuples(st.just("kill_process"), numbers),
    st.tuples(st.just("lose"), numbers),
    st.tuples(st.just("cordon"), numbers),
    st.tuples(st.just("heal")),
)


def play(cluster: Simulated, history: list[tuple[Any, ...]]) -> None:
    for what, *arguments in history:
        cluster.now += 1
        if what == "reconcile":
            reconcile(cluster, *arguments)
        elif what == "edit":
            cluster.edit(**arguments[0])
        else:
            getattr(cluster, what)(*arguments)


def of(history: list[tuple[Any, ...]], *kinds: str) -> list[tuple[Any, ...]]:
    return [step for step in history if step[0] in kinds]


def reconcile(cluster: Simulated, writes: int | None = None) -> bool:
    """Look once, and hold what is done against what was there; returns whether anything was to be done."""
    answer = cluster.plan()
    before, living = cluster.answering(), cluster.living()
    requests_reach_somebody(cluster, answer)
    status = answer.status if answer.status is not None else cluster.resource.get("status")
    if writes is None and status:
        is_true_of(cluster, status)
    cluster.carry_out(answer, writes)
    if writes is None:
        assert not cluster.answering() or routed_to(cluster) <= revisions_of(cluster.answering())
    nobody_missed_leaves(cluster, before)
    not_more_than_asked_for(cluster, living)
    if writes is not None:
        event("the operator was lost in the middle of a plan")
    does = answer.status is not None or bool(answer.creates or answer.deletes or answer.applies or answer.besides)
    assert does or answer.look_again != 0, "it would look again and again at what only others can change"
    return does


def bounds(cluster: Simulated) -> tuple[int, int, int]:
    """Groups wanted, most beyond them, most missing."""
    spec = cluster.resource["spec"]
    replicas = 0 if spec.get("suspend") else spec["replicas"]
    rollout = spec.get("rollout", {})

    def count(of: int | str, *, up: bool) -> int:
        if isinstance(of, int):
            return of
        return -(-replicas // 2) if up else replicas // 2  # 50%

    surge, missing = count(rollout.get("maxSurge", 1), up=True), count(rollout.get("maxUnavailable", 0), up=False)
    return replicas, surge, missing


def nobody_missed_leaves(cluster: Simulated, before: list[dict[str, Any]]) -> None:
    replicas, _, missing = bounds(cluster)
    groups_before = {one["metadata"]["labels"]["muster.dev/group"] for one in before}
    groups_after = {one["metadata"]["labels"]["muster.dev/group"] for one in cluster.answering()}
    assert len(groups_after) >= min(len(groups_before), replicas - missing)


def revisions_of(pods: list[dict[str, Any]]) -> set[str]:
    return {one["metadata"]["labels"]["muster.dev/revision"] for one in pods}


def routed_to(cluster: Simulated) -> set[str]:
    return set().union(*(weighted_by(one) for one in cluster.observed().routes))


def by_a_gateway(cluster: Simulated) -> bool:
    return bool((cluster.resource["spec"].get("canary") or {}).get("gateway"))


def requests_reach_somebody(cluster: Simulated, answer: Any) -> None:
    """Whether nothing that is written has a gateway send requests to a revision of which no group answers."""
    told = {one.name for one in answer.deletes if one.kind == "Pod"}
    stay = revisions_of([one for one in cluster.answering() if one["metadata"]["name"] not in told])
    if not stay or not by_a_gateway(cluster):
        return
    assert cluster.weighted() & revisions_of(cluster.answering()) <= stay
    for route in (one for one in answer.besides if one["kind"] == "HTTPRoute"):
        assert weighted_by(route) <= stay
        assert {f"digits-{one}" for one in weighted_by(route)} <= {name for kind, name in cluster.kept}


def not_more_than_asked_for(cluster: Simulated, before: list[dict[str, Any]]) -> None:
    replicas, surge, _ = bounds(cluster)
    stand_ins = sum(int(one["metadata"]["labels"]["muster.dev/group"]) >= replicas for one in cluster.living())
    without = set(range(replicas)) - {int(one["metadata"]["labels"]["muster.dev/group"]) for one in before}
    assert len(cluster.living()) <= max(replicas + max(surge, stand_ins), len(before) + len(without))


def is_true_of(cluster: Simulated, status: dict[str, Any]) -> None:
    """Whether the conditions say what a client would find."""
    replicas, _, _ = bounds(cluster)
    said = {one["type"]: one["status"] for one in status["conditions"]}
    answering = cluster.answering()
    assert said["Servable"] == str(bool(answering))
    if said["Ready"] == "True":
        groups = {int(one["metadata"]["labels"]["muster.dev/group"]) for one in answering}
        assert groups >= set(range(replicas))
        assert replicas > 0
        assert said["UpToDate"] == "True"
    if said["UpToDate"] == "True" and replicas:
        target = status["revision"]["target"]
        assert {one["metadata"]["labels"]["muster.dev/revision"] for one in cluster.living()} <= {target}


def settle(cluster: Simulated) -> None:
    """Let everything heal and run, until three looks change nothing, the last after a canary's step would be over."""
    cluster.heal()
    quiet = 0
    for _ in range(80):
        cluster.advance(WINDOW if quiet == 2 else 3.0)
        quiet = 0 if reconcile(cluster) or cluster.leaves_at else quiet + 1
        if quiet == 3:
            return
    raise AssertionError(f"it never comes to rest: {cluster.resource['status']}")


@settings(max_examples=600, deadline=None)
@given(st.lists(steps, max_size=30), sizes)
def test_every_history_comes_to_rest_with_what_was_asked_for_last(history, size):
    cluster = Simulated()
    play(cluster, history)
    cluster.edit(replicas=3, suspend=False, rollout={"restart": "last"}, group={"size": size})
    settle(cluster)
    status = cluster.resource["status"]
    assert (status["phase"], status["ready"], status["updatedReplicas"]) == ("Ready", "3/3", 3)
    assert len(cluster.pods) == 3 * size
    only_what_is_asked_for_is_left(cluster)


def only_what_is_asked_for_is_left(cluster: Simulated) -> None:
    target = cluster.resource["status"]["revision"]["target"]
    asked = by_a_gateway(cluster)
    services = {name for kind, name in cluster.kept if kind == "Service"} - {"digits", "digits-groups"}
    assert (services, routed_to(cluster)) == (({f"digits-{target}"}, {target}) if asked else (set(), set()))
    event("by a gateway" if asked else "without a gateway")


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=15), sizes)
def test_a_revision_that_does_not_load_leaves_what_was_there(history, size):
    cluster = Simulated()
    cluster.edit(replicas=3, group={"size": size})
    settle(cluster)
    good = cluster.resource["status"]["revision"]["current"]
    cluster.edit(rollout={"restart": BROKEN})
    play(cluster, of(history, "reconcile", "advance", "delete_pod", "lose", "heal"))
    settle(cluster)
    status = cluster.resource["status"]
    assert (status["phase"], status["readyReplicas"], status["revision"]["current"]) == ("RolledBack", 3, good)
    cluster.edit(rollout={"restart": ""})
    settle(cluster)
    assert cluster.resource["status"]["revision"] == {"current": good, "target": good}


@settings(max_examples=300, deadline=None)
@given(st.lists(st.just(("advance",)) | st.just(("reconcile", None)) | steps, max_size=40), by_gateway, sizes)
def test_whatever_happens_a_gateway_sends_no_request_to_nobody(history, canary, size):
    cluster = Simulated()
    cluster.edit(replicas=3, group={"size": size}, canary=canary)
    settle(cluster)
    cluster.edit(rollout={"restart": "a"})
    play(cluster, [step for step in history if not (step[0] == "edit" and "canary" in step[1])])
    cluster.edit(replicas=3, suspend=False, rollout={"restart": "last"}, group={"size": size})
    settle(cluster)
    assert cluster.resource["status"]["phase"] == "Ready"
    only_what_is_asked_for_is_left(cluster)


slow_steps = st.one_of(
    st.tuples(st.just("edit"), st.fixed_dictionaries({"rollout": rollouts})),
    st.tuples(st.just("edit"), st.fixed_dictionaries({"suspend": st.booleans()})),
    st.tuples(st.just("kill_process"), numbers),
    st.tuples(st.just("delete_pod"), numbers, st.booleans()),
)
long_steps = st.lists(
    st.fixed_dictionaries({"weight": st.integers(1, 100), "pauseSeconds": st.sampled_from([5, 9_000])}), max_size=2
)


@settings(max_examples=100, deadline=None)
@given(st.lists(slow_steps, max_size=6), long_steps, sizes)
def test_however_long_a_rollout_waits_for_somebody_nothing_that_serves_is_given_up(history, canary, size):
    cluster = Simulated()
    cluster.edit(replicas=3, group={"size": size}, canary={"steps": canary})
    settle(cluster)
    cluster.edit(rollout={"restart": "a"})
    killed = 0
    for step in history:
        killed += step[0] == "kill_process"
        if killed < TRIES and BROKEN not in str(step):
            play(cluster, [step])
        settle(cluster)
        assert "failed" not in cluster.resource["status"]["revision"]
        cluster.now += 7_200


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), sizes, st.booleans())
def test_where_the_operator_is_let_through_to_no_pod_it_makes_no_more_than_twice_as_many(replicas, size, served_before):
    cluster = Simulated()
    cluster.edit(replicas=replicas, group={"size": size})
    if served_before:
        settle(cluster)
    cluster.denied = True
    for _ in range(30):
        cluster.carry_out(cluster.plan())
        cluster.advance()
    assert len(cluster.pods) == min(2 * replicas * size, 9 - 9 % size)
    assert cluster.resource["status"]["reason"] == "Unheard"
    cluster.denied = False
    settle(cluster)
    assert (cluster.resource["status"]["phase"], len(cluster.pods)) == ("Ready", replicas * size)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), sizes, st.booleans())
def test_where_each_pod_is_refused_the_next_are_made_ever_later(replicas, size, rolls):
    cluster = Simulated()
    cluster.edit(replicas=replicas, group={"size": size})
    if rolls:
        settle(cluster)
        cluster.edit(rollout={"restart": "a"})
    cluster.refusing, before = True, cluster.resource.get("status", {}).get("attempt", 0)
    for _ in range(300):
        reconcile(cluster)
        cluster.advance(1.0)
    status = cluster.resource["status"]
    tries = (status["attempt"] - before) / (1 if rolls else replicas)
    assert 7 <= tries <= 10 * (replicas if rolls else 1)
    assert "of a group have ended soon after one another, the last of them: digits-" in status["message"]
    cluster.refusing = False
    cluster.now += 120
    settle(cluster)
    assert (cluster.resource["status"]["phase"], len(cluster.pods)) == ("Ready", replicas * size)


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=20), rollouts, sizes)
def test_there_and_back_again_is_where_it_was(history, detour, size):
    cluster = Simulated()
    cluster.edit(group={"size": size})
    settle(cluster)
    before = {name: one["metadata"]["labels"]["muster.dev/revision"] for name, one in cluster.pods.items()}
    cluster.edit(rollout=detour)
    play(cluster, of(history, "reconcile", "advance"))
    cluster.edit(rollout={})
    settle(cluster)
    revision = set(before.values())
    assert {one["metadata"]["labels"]["muster.dev/revision"] for one in cluster.pods.values()} == revision
