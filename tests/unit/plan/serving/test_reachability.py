"""A pod that leaves the operator without an answer is taken out and replaced elsewhere, if others do answer."""

from __future__ import annotations

import pytest

from muster.plan.model import WorkerReport
from tests.unit.plan.fixtures import NOW
from tests.unit.plan.serving.fixtures import answered, decide, deployment, known, leaving, made, name_of, pod, revision

ONE = revision()
GATE = "muster.dev/reachable"


def silent(received_at: float, since: float = NOW - 2) -> WorkerReport:
    return WorkerReport({"ready": True}, received_at, since)


def look(*pods, reports, now=NOW, status=None, **heard):
    named = {f"uid-{name}": report for name, report in reports.items()}
    resource = deployment(status or known(ONE))
    return decide(resource, *pods, now=now, revisions=(ONE,), reports=named, **{"heard_at": NOW} | heard)


def gates(answer):
    return {
        part.manifest["metadata"]["name"]: {one["type"]: one["status"] for one in part.manifest["status"]["conditions"]}
        for part in answer.parts
    }


THERE = (pod(0, 1, ONE, gate="True"), pod(1, 2, ONE, gate="True"))
AWAY = {"digits-serve-0-1": silent(NOW - 3.1), "digits-serve-1-2": answered()}


def test_a_pod_is_let_in_when_it_is_made_and_then_left_alone():
    opened = {GATE: "True"}
    answer = decide(deployment(), pod(0, 1, ONE, ready=False), revisions=(ONE,))
    assert gates(answer) == {"digits-serve-0-1": opened, "digits-serve-1-2": opened}
    assert [one["metadata"]["name"] for one in answer.creates] == ["digits-serve-1-2"]
    assert gates(look(*THERE, reports={})) == {}


def test_gates_of_the_template_are_added_to_it():
    theirs = {"conditionType": "example.com/in-service"}
    (made, _) = decide(deployment(template={"spec": {"readinessGates": [theirs]}})).creates
    assert made["spec"]["readinessGates"] == [{"conditionType": GATE}, theirs]


def test_after_three_seconds_without_an_answer_it_is_called_not_ready_and_replaced_on_another_node():
    answer = look(*THERE, reports=AWAY)
    assert gates(answer) == {
        "digits-serve-0-1": {GATE: "False", "Ready": "False"},
        "digits-serve-0-3": {GATE: "True"},
    }
    assert (made(answer), leaving(answer)) == ([(0, name_of(ONE))], [])
    (term,) = answer.creates[0]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert term["matchFields"] == [{"key": "metadata.name", "operator": "NotIn", "values": ["node-1"]}]
    assert answer.status["failovers"][0]["cause"] == "Unreachable"
    assert answer.status["ready"] == "1/2"


def test_before_that_it_is_looked_at_again_in_time():
    answer = look(*THERE, reports=AWAY | {"digits-serve-0-1": silent(NOW - 1)})
    assert (gates(answer), made(answer), answer.look_again) == ({}, [], 2.0)


def test_one_question_that_came_late_and_was_lost_cuts_nobody_off():
    answer = look(*THERE, reports=AWAY | {"digits-serve-0-1": silent(NOW - 9, since=NOW - 0.5)})
    assert (gates(answer), made(answer), answer.look_again) == ({}, [], 0.5)


def test_where_nobody_answers_it_is_the_operator_who_is_cut_off():
    reports = {"digits-serve-0-1": silent(NOW - 9), "digits-serve-1-2": silent(NOW - 9)}
    answer = look(*THERE, reports=reports, heard_at=NOW - 9)
    assert (gates(answer), made(answer)) == ({}, [])


@pytest.mark.parametrize(
    ("received_at", "unheard", "left"),
    [
        (NOW - 9, (NOW - 9, NOW), 3.0),
        (NOW - 10, (NOW - 9, NOW), 2.0),
        (NOW - 12, (NOW - 9, NOW), None),
        (NOW - 3, (NOW - 9, NOW - 4), None),
    ],
    ids=["silent like all others", "silent a second before them", "cut off before them", "silent since then"],
)
def test_while_nobody_answers_no_patience_is_lost(received_at, unheard, left):
    answer = look(*THERE, reports=AWAY | {"digits-serve-0-1": silent(received_at)}, unheard=unheard)
    assert (made(answer) == [], answer.look_again) == (left is not None, left)


UNHEARD = tuple(
    pod(group, attempt, ONE, gate="False" if attempt < 3 else "True", serving_since=NOW - 20)
    for group, attempt in ((0, 1), (1, 2), (0, 3), (1, 4))
)
LOST = [
    {
        "group": group,
        "cause": "Unreachable",
        "message": "m",
        "pod": f"digits-serve-{group}-{group + 1}",
        "at": "2027-01-15T07:59:40.000Z",
    }
    for group in (0, 1)
]


def unheard(*heard):
    names = ("digits-serve-0-1", "digits-serve-1-2", "digits-serve-0-3", "digits-serve-1-4")
    never = {name: WorkerReport(None, NOW - 9, NOW - 9) for name in names}
    return look(*UNHEARD, reports=never | {name: answered() for name in heard}, status=known(ONE, failovers=LOST))


def test_where_what_took_their_place_is_as_silent_they_are_let_in_again_and_no_more_are_made():
    """As where a NetworkPolicy lets the operator through to none of them."""
    answer = unheard()
    assert gates(answer) == {"digits-serve-0-1": {GATE: "True"}, "digits-serve-1-2": {GATE: "True"}}
    assert (made(answer), leaving(answer)) == ([], [])
    assert (answer.status["phase"], answer.status["reason"]) == ("Degraded", "Unheard")
    assert "let the operator through to their port 8080" in answer.status["message"]


def test_as_long_as_one_of_the_deployment_is_heard_the_others_are_lost():
    answer = unheard("digits-serve-1-4")
    assert gates(answer) == {
        "digits-serve-0-1": {GATE: "False", "Ready": "False"},
        "digits-serve-1-2": {GATE: "False", "Ready": "False"},
        "digits-serve-0-3": {GATE: "False", "Ready": "False"},
        "digits-serve-0-5": {GATE: "True"},
    }
    assert made(answer) == [(0, name_of(ONE))]


def test_a_process_that_is_started_again_is_no_silent_one():
    again = pod(0, 1, ONE, gate="True", serving_since=NOW - 1)
    answer = look(again, THERE[1], reports=AWAY)
    assert (gates(answer), made(answer)) == ({}, [])


def test_back_again_it_is_let_in_and_what_is_too_much_leaves():
    closed = pod(0, 1, ONE, gate="False")
    answer = look(closed, THERE[1], pod(0, 3, ONE, gate="True"), reports={"digits-serve-0-1": answered()})
    assert gates(answer) == {"digits-serve-0-1": {GATE: "True"}}
    assert leaving(answer) == ["digits-serve-0-3"]


@pytest.mark.parametrize("report", [None, WorkerReport(None, NOW - 9, NOW - 9)], ids=["not asked", "never answered"])
def test_an_operator_that_has_just_started_closes_nothing_that_it_has_not_asked(report):
    reports = {} if report is None else {"digits-serve-0-1": report}
    status = known(ONE)
    answer = look(
        *(pod(n, n + 1, ONE, gate="True", serving_since=NOW - 1) for n in (0, 1)), reports=reports, status=status
    )
    assert (gates(answer), made(answer)) == ({}, [])
