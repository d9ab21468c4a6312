"""Groups of several pods: made together when there is room, answering together, replaced together."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from muster.plan import offline
from muster.plan.model import Admission, WorkerReport
from muster.plan.serving.placement import PATIENCE
from tests.unit.plan.fixtures import NOW, node, nodes
from tests.unit.plan.serving.fixtures import (
    SETTINGS,
    answered,
    decide,
    deployment,
    known,
    leaving,
    made,
    name_of,
    pair,
    pod,
    revision,
)

TWO = {"group": {"size": 2}}
OLD, NEW = revision(1, **TWO), revision(2, rollout={"restart": "now"}, **TWO)
ROOM_FOR_ONE, ROOM_FOR_TWO = (
    Admission(granted=True, reason="Admitted", message="there is room", pods=pods) for pods in (2, 4)
)
NO_ROOM = Admission(granted=False, reason="InsufficientCapacity", message="wanted: 2 workers; room now: 1")


def look(*pods, status=None, spec=None, **more):
    return decide(deployment(status or known(OLD), **TWO, **(spec or {})), *pods, revisions=(OLD, NEW), **more)


def restarted(*pods, admission=None, **rollout):
    spec = {"rollout": {"restart": "now"} | rollout}
    return look(*pods, status=known(OLD, NEW), spec=spec, admission=admission)


def names(answer):
    return [one["metadata"]["name"] for one in answer.creates]


THERE = (*pair(0, 1, OLD), *pair(1, 2, OLD))


def test_nothing_is_made_before_there_is_room_for_a_whole_group():
    answer = decide(deployment(**TWO))
    assert (made(answer), len(answer.demand.pods), answer.demand.least) == ([], 4, 2)
    denied = decide(deployment(**TWO), admission=NO_ROOM)
    assert (made(denied), denied.demand.least) == ([], 2)
    assert denied.status["message"].endswith("no group is made: wanted: 2 workers; room now: 1")
    later = decide(deployment(denied.status, **TWO), admission=ROOM_FOR_ONE)
    assert ("failovers" in later.status, later.status["madeReplicas"]) == (False, 1), "nothing was there to be lost"


@pytest.mark.parametrize(
    ("admission", "found"),
    [
        (ROOM_FOR_ONE, ["digits-serve-0-1", "digits-serve-0-1-1"]),
        (ROOM_FOR_TWO, ["digits-serve-0-1", "digits-serve-0-1-1", "digits-serve-1-2", "digits-serve-1-2-1"]),
    ],
    ids=["for one", "for both"],
)
def test_as_many_groups_are_made_as_there_is_room_for(admission, found):
    assert names(decide(deployment(**TWO), admission=admission)) == found


def test_the_first_pod_leads_and_the_others_know_where_it_is():
    leader, member, *_ = decide(deployment(**TWO), admission=ROOM_FOR_ONE).creates
    assert [one["metadata"]["labels"]["muster.dev/role"] for one in (leader, member)] == ["leader", "member"]
    assert (leader["spec"]["hostname"], leader["spec"]["subdomain"]) == ("digits-serve-0-1", "digits-groups")
    arguments = [one["spec"]["containers"][0]["args"] for one in (leader, member)]
    assert all("--group=digits-serve-0-1" in words and "--data=2" in words for words in arguments)
    assert ("--pod=0" in arguments[0], "--pod=1" in arguments[1]) == (True, True)
    assert [word for words in arguments for word in words if word.startswith("--leader")] == [
        "--leader=digits-serve-0-1.digits-groups"
    ]


def test_a_group_of_one_pod_with_one_process_has_nothing_of_that():
    answer = decide(deployment())
    (first, _) = answer.creates
    assert [word for word in first["spec"]["containers"][0]["args"] if word.startswith(("--group", "--pod"))] == []
    assert [one["metadata"]["name"] for one in answer.applies if one["kind"] == "Service"] == ["digits"]


def test_offline_the_same_is_printed_that_is_made_where_there_is_room():
    made = decide(deployment(**TWO), admission=ROOM_FOR_TWO)
    printed = list(yaml.safe_load_all(offline.render([deployment(**TWO)], SETTINGS)))
    assert printed == [*made.applies, *made.besides, *made.creates]


def test_several_processes_in_one_pod_need_no_room_counted():
    (first, _) = decide(deployment(group={"parallelism": {"data": 4}})).creates
    assert {"--data=4", "--pods=1"} <= set(first["spec"]["containers"][0]["args"])


@pytest.mark.parametrize(
    "member", [{"ready": False, "phase": "Pending"}, {"deleting": True}, {"phase": "Failed"}], ids=str
)
def test_a_group_answers_only_with_all_of_its_pods(member):
    answer = look(*pair(0, 1, OLD, member=member), *pair(1, 2, OLD))
    assert answer.status["ready"] == "1/2"


def test_the_rest_of_a_group_leaves_with_a_pod_of_it_and_all_are_made_anew():
    torn = (pod(0, 1, OLD), *pair(1, 2, OLD))
    answer = look(*torn)
    assert (leaving(answer), made(answer), answer.demand.least) == (["digits-serve-0-1"], [], 2)
    (entry,) = answer.status["failovers"]
    assert (entry["cause"], entry["pod"], entry["group"]) == ("PodDeleted", "digits-serve-0-1-1", 0)
    later = look(pod(0, 1, OLD, deleting=True), *pair(1, 2, OLD), status=answer.status, admission=ROOM_FOR_ONE)
    assert (names(later), leaving(later)) == (["digits-serve-0-3", "digits-serve-0-3-1"], [])
    assert later.status["failovers"] == answer.status["failovers"]
    whole = look(*pair(0, 3, OLD), *pair(1, 2, OLD), status=later.status, now=NOW + 6)
    assert [entry["replacedSeconds"] for entry in whole.status["failovers"]] == ["6.0"]


def test_a_group_that_was_half_made_when_the_operator_was_lost_is_completed():
    answer = look(pod(0, 3, OLD, ready=False), *pair(1, 2, OLD))
    assert (names(answer), leaving(answer), answer.status["attempt"]) == (["digits-serve-0-3-1"], [], 3)


def test_on_an_unreachable_node_the_whole_group_is_lost_and_told_once():
    away = nodes(node("node-1", ready="Unknown", since=NOW - 1), node("node-2"))
    elsewhere = {"node": "node-2"}
    there = (*pair(0, 1, OLD, leader=elsewhere), *pair(1, 2, OLD, leader=elsewhere, member=elsewhere))
    first = look(*there, nodes=away)
    (entry,) = first.status["failovers"]
    assert (entry["cause"], entry["pod"], leaving(first)) == ("NodeLost", "digits-serve-0-1-1", ["digits-serve-0-1"])
    later = look(*there, nodes=away, status=first.status, admission=ROOM_FOR_ONE)
    assert sorted(leaving(later)) == ["digits-serve-0-1", "digits-serve-0-1-1"]
    assert names(later) == ["digits-serve-0-3", "digits-serve-0-3-1"]


def gates(answer):
    return {
        part.manifest["metadata"]["name"]: {one["type"]: one["status"] for one in part.manifest["status"]["conditions"]}
        for part in answer.parts
    }


def test_a_member_that_does_not_answer_takes_its_leader_out_of_the_service():
    open_gate = {"gate": "True"}
    there = (
        *pair(0, 1, OLD, leader=open_gate, member=open_gate | {"node": "node-2"}),
        *pair(1, 2, OLD, leader=open_gate, member=open_gate),
    )
    silent = {"uid-digits-serve-0-1-1": WorkerReport({"ready": True}, NOW - 3.1, NOW - 2)}
    first = look(*there, reports=silent, heard_at=NOW)
    assert gates(first) == {
        "digits-serve-0-1": {"muster.dev/reachable": "False"},
        "digits-serve-0-1-1": {"muster.dev/reachable": "False", "Ready": "False"},
    }
    assert (leaving(first), first.demand.least) == ([], 2)
    # It may answer again, and is worth more than nothing; once another is made, its room is.
    later = look(*there, *pair(0, 3, OLD, leader={"ready": False}), reports=silent, heard_at=NOW, status=first.status)
    assert leaving(later) == ["digits-serve-0-1"]


def test_pods_that_are_cut_off_one_after_the_other_are_each_called_not_ready():
    late, early = WorkerReport({"ready": True}, NOW - 2.8, NOW - 2), WorkerReport({"ready": True}, NOW - 3.1, NOW - 2)
    reports = {"uid-digits-serve-0-1": late, "uid-digits-serve-0-1-1": early}
    others, shut = pair(1, 2, OLD, leader={"gate": "True"}, member={"gate": "True"}), {"gate": "False"}
    there = pair(0, 1, OLD, leader={"gate": "True"}, member={"gate": "True"})
    first = look(*there, *others, reports=reports, heard_at=NOW)
    assert gates(first)["digits-serve-0-1"] == {"muster.dev/reachable": "False"}
    assert first.look_again == pytest.approx(0.2)
    called = shut | {"called_unready": True}
    there = pair(0, 1, OLD, leader=shut, member=called)
    then = look(*there, *others, reports=reports, heard_at=NOW, now=NOW + 0.3, status=first.status)
    assert gates(then) == {"digits-serve-0-1": {"muster.dev/reachable": "False", "Ready": "False"}}
    there = pair(0, 1, OLD, leader=called, member=called)
    assert gates(look(*there, *others, reports=reports, heard_at=NOW, now=NOW + 0.4, status=then.status)) == {}


moments = st.floats(0.0, 2.0).map(lambda seconds: round(seconds, 2))


@given(st.tuples(moments, moments), st.lists(moments, max_size=5))
def test_in_whatever_order_pods_fall_silent_each_is_called_not_ready_in_its_time_and_only_once(last_heard, looks):
    """Their kubelets are gone, too, and say nothing. `looks`: beside those that are asked for."""
    mine = {f"digits-serve-0-1{suffix}": {"gate": "True"} for suffix in ("", "-1")}
    silent = {
        f"uid-{name}": WorkerReport({"ready": True}, NOW + at, NOW + at)
        for name, at in zip(mine, last_heard, strict=True)
    }
    others = pair(1, 2, OLD, leader={"gate": "True"}, member={"gate": "True"})
    written, now = [], NOW
    while now < NOW + 8:
        leader, member = mine.values()
        answer = look(*pair(0, 1, OLD, leader=leader, member=member), *others, reports=silent, heard_at=now, now=now)
        for name, said in gates(answer).items():
            if name in mine:
                written.append((name, tuple(said)))
                mine[name] = {"gate": said["muster.dev/reachable"], "called_unready": "Ready" in said}
        late = {name for name, at in zip(mine, last_heard, strict=True) if now >= NOW + at + 3.0}
        assert {name for name in mine if mine[name].get("called_unready")} == late
        assert {mine[name]["gate"] for name in mine} == {"False" if late else "True"}
        asked_for = [now + answer.look_again] if answer.look_again else []
        now = min([*asked_for, *(NOW + at + 3.0 for at in looks if NOW + at + 3.0 > now), NOW + 8])
    assert len(written) == len(set(written))


def test_a_rollout_makes_a_whole_group_more_and_takes_nothing_away():
    answer = restarted(*THERE, admission=ROOM_FOR_ONE)
    assert (made(answer), leaving(answer)) == ([(1, name_of(NEW))] * 2, [])
    after = restarted(*THERE, *pair(1, 3, NEW))
    assert leaving(after) == ["digits-serve-1-2", "digits-serve-1-2-1"]


def test_without_room_for_another_group_it_waits_and_says_what_would_help():
    answer = restarted(*THERE, admission=NO_ROOM)
    assert (made(answer), leaving(answer)) == ([], [])
    assert "no group is made: wanted: 2 workers; room now: 1. Nothing is taken down" in answer.status["message"]


def test_without_room_for_another_group_an_old_one_makes_place_where_it_may():
    answer = restarted(*THERE, admission=NO_ROOM, maxUnavailable=1)
    assert leaving(answer) == ["digits-serve-1-2", "digits-serve-1-2-1"]
    gone = restarted(*pair(0, 1, OLD), *pair(1, 2, OLD, leader={"deleting": True}), admission=NO_ROOM, maxUnavailable=1)
    assert (made(gone), leaving(gone), gone.demand.least) == ([], ["digits-serve-1-2-1"], 2)


def test_a_group_of_which_a_pod_finds_no_place_is_taken_back():
    stuck = pair(0, 3, OLD, leader={"ready": False}, member={"unplaced": "0/3 nodes are available"})
    there = (*stuck, *pair(1, 2, OLD))
    # As the fixtures have it, that was said fifty seconds ago.
    assert look(*there, status=known(OLD, attempt=3)).look_again == PATIENCE - 50
    answer = look(*there, status=known(OLD, attempt=3), now=NOW + 10)
    assert sorted(leaving(answer)) == ["digits-serve-0-3", "digits-serve-0-3-1"]
    assert answer.demand.least == 2


@pytest.mark.parametrize(
    ("there", "spec", "least"),
    [
        (THERE, {}, 4),
        (THERE, {"rollout": {"maxUnavailable": 1}}, 3),
        ((*THERE, *pair(1, 3, OLD)), {}, 5),
        (THERE[:2], {"rollout": {"maxUnavailable": 1}}, 3),
    ],
    ids=["none may be missing", "one may be missing", "one more than wanted", "one missing already"],
)
def test_as_many_pods_may_be_evicted_as_groups_may_be_missing(there, spec, least):
    answer = look(*there, spec=spec)
    (budget,) = (one for one in answer.besides if one["kind"] == "PodDisruptionBudget")
    assert (budget["spec"]["minAvailable"], budget["spec"]["selector"]["matchLabels"]) == (
        least, {"muster.dev/deployment-uid": budget["metadata"]["ownerReferences"][0]["uid"]},
    )  # fmt: skip


def test_what_is_measured_is_told_by_leaders_alone():
    of_leaders = {f"uid-{name}": answered(requestsPerSecond=5.0) for name in ("digits-serve-0-1", "digits-serve-1-2")}
    reports = of_leaders | {"uid-digits-serve-0-1-1": answered()}
    answer = look(*THERE, reports=reports)
    assert answer.status["metrics"]["requestsPerSecond"] == "10"
    assert len(answer.scrape) == 4


def test_a_process_of_a_member_that_died_is_told_by_the_leader():
    death = {"count": 1, "exitCode": None, "diedAt": NOW - 1, "seconds": 0.84, "rank": 1}
    answer = look(*THERE, reports={"uid-digits-serve-0-1": answered(death=death)})
    (entry,) = answer.status["failovers"]
    assert (entry["cause"], entry["replacedSeconds"], "exitCode" in entry) == ("ProcessDied", "0.8", False)
