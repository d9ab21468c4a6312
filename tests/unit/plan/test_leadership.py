"""Who speaks for a group that may have lost rank 0, who is asked, and who is entrusted with it."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from muster.plan.training.leadership import SILENCE
from tests.unit.plan.fixtures import NOW, decide, job, pod, report, started

ROUNDS = Path(__file__).parents[3] / "worker_image/muster_worker/agent/rounds.py"
ELASTIC = started(job(elastic={"minReplicas": 1, "maxReplicas": 8}))
GANG = pod(0), pod(1), pod(2)
MEMBERS = [{"rank": rank, "pod": f"digits-{rank}-1", "silentSeconds": 0.1} for rank in range(3)]
OF_RANK_0 = report(members=MEMBERS)


def uid(rank, attempt=1):
    return f"uid-digits-{rank}-{attempt}"


def silent(since, **state):
    return replace(report(**state), silent_since=since)


def asked(plan):
    """Whom the plan asks, by rank, and whether each is entrusted."""
    return {int(target.pod_uid.split("-")[2]): target.entrusted for target in plan.scrape}


def in_the_place_of_rank_0(attempt=2, **state):
    return report(attempt=attempt, members=MEMBERS[1:], **state)


def test_a_word_given_holds_as_long_here_as_with_the_agents():
    """Neither knows the other's code, and two parts of a torn group may go on where they differ."""
    assert runpy.run_path(str(ROUNDS))["SILENCE"] == SILENCE


def test_while_rank_0_answers_it_alone_is_asked_and_entrusted():
    assert asked(decide(ELASTIC, *GANG, reports={uid(0): OF_RANK_0})) == {0: True}


def test_nobody_is_entrusted_before_there_was_an_answer():
    """The operator before this one may have entrusted somebody else a moment ago."""
    assert asked(decide(ELASTIC, *GANG)) == {0: False}


def test_nobody_is_entrusted_with_a_group_of_fixed_size():
    assert asked(decide(started(job()), *GANG, reports={uid(0): OF_RANK_0})) == {0: False}


def test_once_rank_0_has_been_silent_for_as_long_as_it_is_entrusted_the_others_are_asked():
    soon = decide(ELASTIC, *GANG, reports={uid(0): silent(NOW - SILENCE + 1, members=MEMBERS)})
    assert asked(soon) == {0: False}
    assert soon.look_again == 1
    assert asked(decide(ELASTIC, *GANG, reports={uid(0): silent(NOW - SILENCE, members=MEMBERS)})) == {
        0: False,
        1: True,
        2: True,
    }


def test_the_one_in_rank_0s_place_speaks_for_the_group_and_is_entrusted_alone():
    reports = {
        uid(0): silent(NOW - 20, members=MEMBERS),
        uid(1): in_the_place_of_rank_0(progress={"step": 70, "at": NOW}),
        uid(2): report(attempt=2, coordinates=False),
    }
    plan = decide(ELASTIC, *GANG, reports=reports)
    assert asked(plan) == {0: False, 1: True, 2: False}
    assert (plan.status["attempt"], plan.status["phase"], plan.status["progress"]["step"]) == (2, "Running", 70)
    assert plan.status["message"] == "2 of 3 workers train; the others join them when they run"
    assert plan.deletes == plan.creates == ()


@pytest.mark.parametrize(("attempt", "speaks"), [(1, 1), (2, 0), (3, 0)])
def test_rank_0_speaks_again_once_it_has_heard_of_what_the_others_did(attempt, speaks):
    reports = {uid(0): report(attempt=attempt, members=MEMBERS), uid(1): in_the_place_of_rank_0()}
    plan = decide(started(job(elastic={"minReplicas": 1, "maxReplicas": 8}), attempt=2), *GANG, reports=reports)
    assert [rank for rank, entrusted in asked(plan).items() if entrusted] == [speaks]


def test_an_operator_that_has_just_started_knows_by_the_recorded_attempt_that_rank_0_is_behind():
    behind = started(job(elastic={"minReplicas": 1, "maxReplicas": 8}), attempt=2)
    assert asked(decide(behind, *GANG, reports={uid(0): OF_RANK_0})) == {0: False, 1: False, 2: False}


@pytest.mark.parametrize("since", [0.5, SILENCE + 0.5])
def test_rank_0_that_is_back_is_entrusted_once_the_word_of_the_others_has_expired(since):
    reports = {uid(0): OF_RANK_0, uid(1): replace(report(coordinates=False), entrusted_at=NOW - since)}
    plan = decide(ELASTIC, *GANG, reports=reports)
    assert asked(plan) == {0: since > SILENCE}
    assert plan.look_again == (SILENCE - since if since < SILENCE else None)


@pytest.mark.parametrize("since", [0.5, SILENCE + 0.5])
def test_the_others_are_entrusted_once_the_word_of_rank_0_has_expired(since):
    """Its pod is being deleted: it may still live."""
    reports = {uid(0): replace(silent(NOW - 20, members=MEMBERS), entrusted_at=NOW - since)}
    plan = decide(ELASTIC, pod(0, deleting=True), pod(1), pod(2), reports=reports)
    assert asked(plan) == dict.fromkeys((1, 2), since > SILENCE)


def test_who_is_silent_is_not_entrusted_in_the_place_of_rank_0():
    reports = {uid(0): silent(NOW - 20, members=MEMBERS), uid(1): silent(NOW - 1)}
    assert asked(decide(ELASTIC, *GANG, reports=reports)) == {0: False, 1: False, 2: True}


def test_the_entrusted_hears_which_pods_are_no_more():
    plan = decide(ELASTIC, pod(0), pod(1), pod(2, attempt=2, phase="Pending"), reports={uid(0): OF_RANK_0})
    assert [(target.entrusted, target.gone) for target in plan.scrape] == [(True, ("digits-2-1",))]


def test_pods_that_start_are_not_asked_for_a_leader():
    starting = started(job(elastic={"minReplicas": 1, "maxReplicas": 8}), phase="Starting")
    assert asked(decide(starting, pod(0, phase="Pending"), pod(1), pod(2))) == {}
