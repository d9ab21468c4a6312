"""A rollout that does not get on is given up, for a reason that is told, and its last good revision comes back."""

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
BROKEN = {"exitCode": 2, "reason": "Error", "message": "Traceback\nerror: /muster/model has no model.json\n"}


def look(*pods, status=None, now=NOW, **rollout):
    asked = deployment(status or known(OLD, NEW), rollout={"restart": "now"} | rollout)
    return decide(asked, *pods, now=now, revisions=(OLD, NEW))


GOOD = (pod(0, 1, OLD), pod(1, 2, OLD))
BAD = pod(1, 3, NEW, ready=False, restarts=1, died=BROKEN)


def test_a_model_that_is_refused_is_given_up_at_once_in_its_own_words():
    answer = look(*GOOD, BAD)
    told = answer.status["revision"]
    assert (told["failed"], told["current"]) == (name_of(NEW), name_of(OLD))
    assert told["failure"] == "digits-serve-1-3 does not serve it: /muster/model has no model.json"


def test_its_own_words_are_known_before_its_node_has_started_it_again():
    answer = look(*GOOD, pod(1, 3, NEW, ready=False, dead=BROKEN))
    assert answer.status["revision"]["failure"].endswith("/muster/model has no model.json")


def test_given_up_what_is_new_leaves_and_the_status_says_so():
    first = look(*GOOD, BAD)
    answer = look(*GOOD, BAD, status=first.status)
    assert (made(answer), leaving(answer), answer.status["phase"]) == ([], ["digits-serve-1-3"], "RolledBack")
    assert said(answer) == {"Servable": "True", "UpToDate": "False", "Ready": "False", "Progressing": "True"}
    assert said(look(*GOOD, status=answer.status))["Progressing"] == "False"
    assert "no model.json" in answer.status["message"]
    assert answer.events[0].type == "Warning"


def test_given_up_it_is_not_tried_again_until_another_is_asked_for():
    back = known(OLD, NEW, revision=look(*GOOD, BAD).status["revision"])
    assert made(look(*GOOD, status=back)) == []
    third = revision(3, rollout={"restart": "third"})
    asked = deployment(back, rollout={"restart": "third"})
    answer = decide(asked, *GOOD, revisions=(OLD, NEW, third))
    assert made(answer) == [(1, name_of(third))]
    assert answer.status["revision"] == {"current": name_of(OLD), "target": name_of(third)}


def test_given_up_it_stays_as_it_is_where_that_is_asked_for():
    first = look(*GOOD, BAD, onFailure="Pause")
    answer = look(*GOOD, BAD, status=first.status, onFailure="Pause")
    assert (made(answer), leaving(answer), answer.status["phase"]) == ([], [], "Failed")


def test_a_process_that_ends_again_and_again_gives_its_revision_up():
    crash = {"exitCode": 1, "reason": "Error", "message": ""}
    assert "failed" not in look(*GOOD, pod(1, 3, NEW, ready=False, restarts=2, died=crash)).status["revision"]
    told = look(*GOOD, pod(1, 3, NEW, ready=False, restarts=3, died=crash)).status["revision"]
    assert told["failure"] == "digits-serve-1-3 does not serve it: its process ended with exit code 1"


def test_past_its_deadline_it_is_given_up():
    slow = pod(1, 3, NEW, ready=False)
    assert look(*GOOD, slow, progressDeadlineSeconds=60).look_again == 30.0
    told = look(*GOOD, slow, progressDeadlineSeconds=60, now=NOW + 30).status["revision"]
    assert told["failure"].startswith(
        "no further group became ready within 60 s (spec.rollout.progressDeadlineSeconds)"
    )


@pytest.mark.parametrize(
    ("there", "rollout"),
    [((pod(1, 3, NEW, unplaced="no room"),), {}), ((pod(1, 3, NEW, ready=False),), {"paused": True})],
    ids=["no room", "paused"],
)
def test_waiting_for_room_or_for_somebody_is_no_failure(there, rollout):
    answer = look(*GOOD, *there, progressDeadlineSeconds=60, now=NOW + 3600, **rollout)
    assert "failed" not in answer.status["revision"]


def test_after_a_pause_it_has_the_whole_deadline():
    slow = pod(1, 3, NEW, ready=False)
    paused = look(*GOOD, slow, progressDeadlineSeconds=60, paused=True).status
    on = look(*GOOD, slow, status=paused, progressDeadlineSeconds=60, now=NOW + 3600)
    assert on.status["rollout"]["progressedAt"] == to_timestamp(NOW + 3600)
    assert ("failed" in on.status["revision"], on.look_again) == (False, 60.0)
    late = look(*GOOD, slow, status=on.status, progressDeadlineSeconds=60, now=NOW + 3660)
    assert "failed" in late.status["revision"]


def test_a_pod_that_no_scheduler_has_looked_at_yet_waits_for_its_place():
    """It is made long after the last progress: after a pause, a long step of a canary, or another partition."""
    just_made = pod(1, 3, NEW, ready=False)
    del just_made["spec"]["nodeName"]
    just_made["status"] = {"phase": "Pending"}
    answer = look(*GOOD, just_made, progressDeadlineSeconds=60, now=NOW + 3600)
    assert "failed" not in answer.status["revision"]
    assert answer.look_again is None, "its place will tell"


def test_what_has_answered_until_now_has_the_whole_deadline_to_come_back():
    """In a step of a canary or behind a partition, its rollout may have made no progress for hours."""
    back = pod(1, 3, NEW, ready=False, turned=NOW + 3590)
    answer = look(pod(0, 1, OLD), back, progressDeadlineSeconds=60, now=NOW + 3600, partition=1)
    assert ("failed" in answer.status["revision"], answer.look_again) == (False, 50.0)
    assert "failed" in look(pod(0, 1, OLD), back, progressDeadlineSeconds=60, now=NOW + 3650).status["revision"]


def test_each_group_that_becomes_ready_sets_the_deadline_anew():
    there = (pod(0, 1, OLD), pod(1, 3, NEW))
    answer = look(*there, progressDeadlineSeconds=60, now=NOW + 20)
    assert answer.status["rollout"]["progressedAt"] == to_timestamp(NOW + 20)
    assert answer.status["rollout"]["step"] == "1/2 groups"


def test_at_first_there_is_nothing_to_return_to_and_it_is_tried_on():
    first = deployment(known(OLD, revision={"target": name_of(OLD)}, attempt=2))
    bad = tuple(pod(group, group + 1, OLD, ready=False, restarts=1, died=BROKEN) for group in range(2))
    failed = decide(first, *bad, revisions=(OLD,)).status
    answer = decide(deployment(failed), *bad, revisions=(OLD,))
    assert (answer.status["phase"], made(answer), leaving(answer)) == ("Failed", [], [])
    assert said(answer)["Ready"] == "False"
    healed = decide(deployment(answer.status), pod(0, 1, OLD), pod(1, 2, OLD), revisions=(OLD,)).status
    assert healed["revision"] == {"target": name_of(OLD), "current": name_of(OLD)}


def test_done_it_is_what_a_rollback_returns_to():
    answer = look(pod(0, 4, NEW), pod(1, 3, NEW))
    assert answer.status["revision"] == {"current": name_of(NEW), "target": name_of(NEW)}
    assert answer.status["rollout"]["seconds"] == "30.0"
    assert answer.status["restart"] == {"observed": "now", "completedAt": to_timestamp(NOW)}
    assert said(answer) == {"Servable": "True", "UpToDate": "True", "Ready": "True", "Progressing": "False"}


@pytest.mark.parametrize(
    ("there", "rollout", "spec"),
    [
        (GOOD, {"paused": True}, {}),
        ((pod(0, 1, OLD), pod(1, 3, NEW)), {"partition": 1}, {}),
        ((), {}, {"suspend": True}),
    ],
    ids=["paused", "behind a partition", "suspended"],
)
def test_where_it_is_not_to_get_on_nothing_is_written_again_and_again(there, rollout, spec):
    def status(before, now):
        asked = deployment(before, rollout={"restart": "now"} | rollout, **spec)
        return decide(asked, *there, now=now, revisions=(OLD, NEW)).status

    assert status(status(known(OLD, NEW), NOW), NOW + 5) is None


def test_a_group_that_comes_back_slowly_long_after_its_rollout_is_no_failed_rollout():
    there = (pod(0, 4, NEW), pod(1, 6, NEW, ready=False))
    answer = look(*there, status=known(NEW), progressDeadlineSeconds=10, now=NOW + 3600)
    assert "failed" not in answer.status["revision"]
    assert answer.look_again is None


def test_a_process_that_dies_of_what_it_is_asked_gives_its_revision_up():
    def dying(count):
        death = {"count": count, "exitCode": 139, "diedAt": NOW - 1, "seconds": 0.5}
        resource = deployment(known(OLD, NEW), rollout={"restart": "now"})
        reports = {"uid-digits-serve-1-3": answered(death=death)}
        answer = decide(resource, pod(0, 1, OLD), pod(1, 3, NEW), revisions=(OLD, NEW), reports=reports)
        return answer.status["revision"].get("failure")

    assert dying(2) is None
    assert dying(3) == "a process of digits-serve-1-3 has died 3 times while it served"
