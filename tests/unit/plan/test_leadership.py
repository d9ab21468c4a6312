"""Who speaks for a group that may have lost rank 0, who is asked, and which part of it is given the word to go on."""

from dataclasses import replace

import pytest

from tests.unit.plan.fixtures import NOW, decide, job, pod, report, started

ELASTIC = started(job(elastic={"minReplicas": 1, "maxReplicas": 8}))
GANG = pod(0), pod(1), pod(2)
MEMBERS = [{"rank": rank, "pod": f"digits-{rank}-1", "silentSeconds": 0.1} for rank in range(3)]
OF_RANK_0 = report(members=MEMBERS)


def uid(rank, attempt=1):
    return f"uid-digits-{rank}-{attempt}"


def silent(since, **state):
    return replace(report(**state), silent_since=since)


def asked(plan):
    """Whom the plan asks, by rank, and the word that each is given."""
    return {int(target.pod_uid.split("-")[2]): target.word for target in plan.scrape}


def in_the_place_of_rank_0(attempt=2, **state):
    return report(attempt=attempt, members=MEMBERS[1:], **state)


def half(word, **state):
    """The answer of one that waits with half of its group."""
    return report(phase="Restarting", members=MEMBERS[:1], asksFor=word, **state)


def test_while_rank_0_answers_it_alone_is_asked():
    assert asked(decide(ELASTIC, *GANG, reports={uid(0): OF_RANK_0})) == {0: None}


def test_once_rank_0_is_silent_the_others_are_asked():
    assert asked(decide(ELASTIC, *GANG, reports={uid(0): silent(NOW - 1, members=MEMBERS)})) == {
        0: None,
        1: None,
        2: None,
    }


def test_in_a_group_of_fixed_size_rank_0_alone_is_asked():
    assert asked(decide(started(job()), *GANG, reports={uid(0): silent(NOW - 20, members=MEMBERS)})) == {0: None}


def test_an_elastic_group_is_asked_all_the_time():
    assert [target.steady for target in decide(ELASTIC, *GANG, reports={uid(0): OF_RANK_0}).scrape] == [True]
    assert [target.steady for target in decide(started(job()), *GANG, reports={uid(0): OF_RANK_0}).scrape] == [False]


def entrusted(rank, round_id="a-1"):
    """The elastic job whose status says who was given the word."""
    return {**ELASTIC, "status": ELASTIC["status"] | {"entrusted": {"round": round_id, "pod": f"digits-{rank}-1"}}}


def test_to_whom_the_word_is_given_is_written_first():
    plan = decide(ELASTIC, *GANG, reports={uid(0): half("a-1/1")})
    assert plan.status["entrusted"] == {"round": "a-1", "pod": "digits-0-1"}
    assert asked(plan) == {0: None}
    plan = decide(entrusted(0), *GANG, reports={uid(0): half("a-1/1")})
    assert asked(plan) == {0: "a-1/1"}


def test_in_the_place_of_rank_0_too_half_of_a_group_is_given_the_word():
    reports = {uid(0): silent(NOW - 20, members=MEMBERS), uid(1): half("a-1/2")}
    assert decide(ELASTIC, *GANG, reports=reports).status["entrusted"] == {"round": "a-1", "pod": "digits-1-1"}
    assert asked(decide(entrusted(1), *GANG, reports=reports)) == {0: None, 1: "a-1/2", 2: None}


def test_one_that_has_fallen_silent_is_given_no_word():
    reports = {uid(0): replace(half("a-1/1"), silent_since=NOW - 20)}
    assert asked(decide(entrusted(0), *GANG, reports=reports)) == {0: None, 1: None, 2: None}


def test_of_two_parts_one_is_given_the_word():
    reports = {uid(0): half("a-1/1"), uid(1): half("a-1/2")}
    assert decide(ELASTIC, *GANG, reports=reports).status["entrusted"]["pod"] == "digits-0-1"


@pytest.mark.parametrize("first", [half("a-1/1"), replace(half("a-1/1"), silent_since=NOW - 60), OF_RANK_0, None])
def test_who_was_given_the_word_for_a_round_keeps_the_others_from_it(first):
    """Whether it has come there, and what was made of it, may never be known here."""
    reports = {uid(1): half("a-1/2")} | ({uid(0): first} if first is not None else {})
    plan = decide(entrusted(0), *GANG, reports=reports)
    assert asked(plan).get(1) is None
    assert plan.status["entrusted"]["pod"] == "digits-0-1"


def test_it_is_given_the_next_word_for_the_same_round():
    assert asked(decide(entrusted(0), *GANG, reports={uid(0): half("a-1/9")})) == {0: "a-1/9"}


def test_the_next_round_may_be_anothers():
    reports = {uid(0): silent(NOW - 20, members=MEMBERS), uid(1): half("a-2/2")}
    told = decide(entrusted(0), *GANG, reports=reports).status["entrusted"]
    assert told == {"round": "a-2", "pod": "digits-1-1"}


@pytest.mark.parametrize("gang", [GANG[1:], (pod(0, phase="Failed"), *GANG[1:])], ids=["gone", "ended"])
def test_of_a_pod_that_runs_no_more_no_word_counts(gang):
    reports = {uid(0): silent(NOW - 20, members=MEMBERS), uid(1): half("a-1/2")}
    assert decide(entrusted(0), *gang, reports=reports).status["entrusted"]["pod"] == "digits-1-1"


def test_who_has_joined_others_since_makes_nothing_of_its_word():
    reports = {
        uid(0): silent(NOW - 20, members=MEMBERS),
        uid(1): report(coordinates=False),
        uid(2): half("a-1/2"),
    }
    assert decide(entrusted(1), *GANG, reports=reports).status["entrusted"]["pod"] == "digits-2-1"
    del reports[uid(2)]
    assert "entrusted" not in decide(entrusted(1), *GANG, reports=reports).status


def test_a_part_that_is_behind_is_given_no_word():
    behind = started(job(elastic={"minReplicas": 1, "maxReplicas": 8}), attempt=2)
    plan = decide(behind, *GANG, reports={uid(0): half("a-1/1")})
    assert asked(plan) == {0: None, 1: None, 2: None}
    assert plan.status is None or "entrusted" not in plan.status


def test_the_one_in_rank_0s_place_speaks_for_the_group():
    reports = {
        uid(0): silent(NOW - 20, members=MEMBERS),
        uid(1): in_the_place_of_rank_0(progress={"step": 70, "at": NOW}),
        uid(2): report(attempt=2, coordinates=False),
    }
    plan = decide(ELASTIC, *GANG, reports=reports)
    assert (plan.status["attempt"], plan.status["phase"], plan.status["progress"]["step"]) == (2, "Running", 70)
    assert plan.status["message"] == "2 of 3 workers train; the others join them when they run"
    assert plan.deletes == plan.creates == ()


@pytest.mark.parametrize(("attempt", "all_are_asked"), [(1, True), (2, False), (3, False)])
def test_rank_0_speaks_again_once_it_has_heard_of_what_the_others_did(attempt, all_are_asked):
    reports = {uid(0): report(attempt=attempt, members=MEMBERS), uid(1): in_the_place_of_rank_0()}
    plan = decide(started(job(elastic={"minReplicas": 1, "maxReplicas": 8}), attempt=2), *GANG, reports=reports)
    assert asked(plan).keys() == ({0, 1, 2} if all_are_asked else {0})


def test_which_pods_are_no_more_is_told():
    plan = decide(ELASTIC, pod(0), pod(1), pod(2, attempt=2, phase="Pending"), reports={uid(0): OF_RANK_0})
    assert [target.gone for target in plan.scrape] == [("digits-2-1",)]


def test_pods_that_start_are_not_asked_for_a_leader():
    starting = started(job(elastic={"minReplicas": 1, "maxReplicas": 8}), phase="Starting")
    assert asked(decide(starting, pod(0, phase="Pending"), pod(1), pod(2))) == {}
