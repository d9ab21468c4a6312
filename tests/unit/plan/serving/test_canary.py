"""A rollout in steps: so many groups, for so long, and judged by what clients see of them."""

from __future__ import annotations

import pytest

from muster.plan.timestamps import to_timestamp
from tests.unit.plan.fixtures import NOW
from tests.unit.plan.serving.fixtures import (
    answered,
    decide,
    deployment,
    known,
    leaving,
    made,
    name_of,
    pod,
    revision,
    said,
)

OLD, NEW = revision(1), revision(2, rollout={"restart": "now"})
STEPS = [{"weight": 10, "pauseSeconds": 60}, {"weight": 50, "pauseSeconds": 30}]
OLDS = tuple(pod(group, group + 1, OLD) for group in range(4))


def look(*pods, status=None, now=NOW, reports=None, analysis=None, steps=STEPS, **rollout):
    canary = {"steps": steps} | ({"analysis": analysis} if analysis else {})
    asked = deployment(
        status or known(OLD, NEW, madeReplicas=4, attempt=4),
        replicas=4,
        canary=canary,
        rollout={"restart": "now"} | rollout,
    )
    return decide(asked, *pods, now=now, revisions=(OLD, NEW), reports=reports or {})


def test_the_first_step_is_one_group_the_last():
    answer = look(*OLDS, maxSurge=4)
    assert made(answer) == [(3, name_of(NEW))]
    assert (answer.status["reason"], answer.status["rollout"]["canaryStep"]) == ("Canary", 1)


ONE_NEW = (*OLDS[:3], pod(3, 5, NEW))


def test_it_is_watched_from_the_moment_that_it_answers():
    first = look(*ONE_NEW)
    assert first.status["rollout"]["canaryStepSince"] == to_timestamp(NOW)
    assert (made(first), leaving(first)) == ([], [])
    later = look(*ONE_NEW, status=first.status, now=NOW + 20)
    assert (made(later), later.look_again) == ([], 40.0)


def test_then_comes_the_next_step_and_in_the_end_all_groups():
    first = look(*ONE_NEW).status
    second = look(*ONE_NEW, status=first, now=NOW + 60)
    assert second.status["rollout"]["canaryStep"] == 2
    assert made(look(*ONE_NEW, status=second.status, now=NOW + 61)) == [(2, name_of(NEW))]
    half = (*OLDS[:2], pod(2, 6, NEW), pod(3, 5, NEW))
    watched = look(*half, status=second.status, now=NOW + 70).status
    last = look(*half, status=watched, now=NOW + 100)
    assert last.status["rollout"]["canaryStep"] == 3
    assert made(look(*half, status=last.status, now=NOW + 101)) == [(1, name_of(NEW))]


def test_paused_it_stays_where_it_is():
    first = look(*ONE_NEW).status
    answer = look(*ONE_NEW, status=first, now=NOW + 90, paused=True)
    assert answer.status["rollout"]["canaryStep"] == 1
    assert answer.look_again is None, "only a person changes that"


def test_suspended_nothing_is_watched_and_a_step_that_was_is_watched_anew():
    first = look(*ONE_NEW).status
    suspended = deployment(first, replicas=4, canary={"steps": STEPS}, rollout={"restart": "now"}, suspend=True)
    answer = decide(suspended, now=NOW + 3600, revisions=(OLD, NEW))
    assert answer.status["rollout"]["canaryStep"] == 1
    assert "canaryStepSince" not in answer.status["rollout"]
    resumed = look(status=answer.status, now=NOW + 3601)
    assert made(resumed) == [*((group, name_of(OLD)) for group in range(3)), (3, name_of(NEW))]


def test_a_step_that_a_partition_holds_up_says_so():
    steps = [{"weight": 50, "pauseSeconds": 60}]
    answer = look(*ONE_NEW, steps=steps, partition=3)
    assert (answer.status["reason"], said(answer)["Progressing"]) == ("Partitioned", "False")
    assert answer.status["message"].startswith("step 1 of 1: 1 of 4 groups answer with revision")
    assert answer.status["message"].endswith("; spec.rollout.partition is 3")
    assert look(*ONE_NEW, steps=steps, partition=2).status["reason"] == "Canary"


def test_the_deadline_does_not_run_while_it_is_watched():
    first = look(*ONE_NEW, progressDeadlineSeconds=10).status
    answer = look(*ONE_NEW, status=first, now=NOW + 50, progressDeadlineSeconds=10)
    assert answer.status is None or "failed" not in answer.status["revision"]


@pytest.mark.parametrize(
    ("analysis", "state", "why"),
    [
        ({"maxErrorRate": "0.01"}, {"errorRate": 0.2}, "digits-serve-3-5 fails 0.2 of its requests"),
        ({"maxLatencyP99Milliseconds": 100}, {"latencyP99": 0.5}, "digits-serve-3-5 takes 500 ms"),
    ],
    ids=["errors", "latency"],
)
def test_what_does_not_keep_its_limits_is_given_up(analysis, state, why):
    bad = {"uid-digits-serve-3-5": answered(**state)}
    answer = look(*ONE_NEW, reports=bad, analysis=analysis)
    assert answer.status["revision"]["failed"] == name_of(NEW)
    assert answer.status["revision"]["failure"].startswith(why)
    back = look(*ONE_NEW, reports=bad, analysis=analysis, status=answer.status)
    assert (made(back), back.status["phase"]) == ([(3, name_of(OLD))], "RolledBack")
    assert leaving(back) == [], "what answers is not taken away before another does"


@pytest.mark.parametrize(
    "state",
    [
        {"errorRate": 0.005, "latencyP99": 0.02},
        {"errorRate": 1.0, "requestsPerSecond": 0.1},
        {"latencyP99": 5.0, "requestsPerSecond": 3.0},
    ],
    ids=str,
)
def test_what_keeps_them_or_was_hardly_asked_goes_on(state):
    limits = {"maxErrorRate": "0.01", "maxLatencyP99Milliseconds": 100}
    answer = look(*ONE_NEW, reports={"uid-digits-serve-3-5": answered(**state)}, analysis=limits)
    assert "failed" not in answer.status["revision"]


@pytest.mark.parametrize(
    ("limits", "state", "lasts"),
    [
        ({"maxErrorRate": "0.01"}, {"requestsPerSecond": 0.6}, 30),
        ({"maxErrorRate": "0.01"}, {"requestsPerSecond": 0.7}, 10),
        ({"maxLatencyP99Milliseconds": 100}, {"requestsPerSecond": 0.7}, 30),
        ({"maxLatencyP99Milliseconds": 100}, {"requestsPerSecond": 3.4}, 10),
        ({"maxLatencyP99Milliseconds": 100}, None, 30),
        (None, None, 10),
    ],
    ids=str,
)
def test_a_short_step_lasts_half_a_minute_when_too_few_asked_to_judge_it(limits, state, lasts):
    steps, reports = [{"weight": 10, "pauseSeconds": 10}], {"uid-digits-serve-3-5": answered(**state)} if state else {}
    asked = {"reports": reports, "analysis": limits, "steps": steps}
    first = look(*ONE_NEW, **asked).status
    before = look(*ONE_NEW, status=first, now=NOW + lasts - 1, **asked)
    assert ((before.status or first)["rollout"]["canaryStep"], before.look_again) == (1, 1.0)
    assert look(*ONE_NEW, status=first, now=NOW + lasts, **asked).status["rollout"]["canaryStep"] == 2


def test_the_old_groups_are_not_judged():
    limits = {"maxLatencyP99Milliseconds": 100}
    answer = look(*ONE_NEW, reports={"uid-digits-serve-0-1": answered(latencyP99=3.0)}, analysis=limits)
    assert "failed" not in answer.status["revision"]


def test_the_first_revision_has_nothing_to_be_compared_with_and_goes_out_at_once():
    asked = deployment(replicas=4, canary={"steps": STEPS})
    assert [group for group, _ in made(decide(asked))] == [0, 1, 2, 3]
