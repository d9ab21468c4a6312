"""Status writes that the next one would make void are put off; what matters is written at once."""

import pytest

from muster.plan.model import WorkerReport
from muster.plan.timestamps import to_timestamp
from muster.plan.training.pacing import CALM
from tests.unit.plan.fixtures import NOW, decide, job, pod, report, started, started_at_once

LEADER = "uid-digits-0-1"
TRAINS = {LEADER: report()}


def at(moment: float, one):
    """The pod, changed at that moment."""
    one["status"]["conditions"][0]["lastTransitionTime"] = to_timestamp(moment)
    return one


def starting():
    return job() | {"status": started_at_once().status}


def test_nothing_is_written_of_new_pods_before_one_of_them_runs():
    pods = (pod(rank, phase="Pending") for rank in range(3))
    assert decide(starting(), *pods, now=NOW + 30).status is None


def test_workers_that_come_one_after_the_other_are_counted_once_they_have_all_come():
    first = at(NOW, pod(0))
    put_off = decide(starting(), first, pod(1, phase="Pending"), pod(2, phase="Pending"), now=NOW + 0.5)
    assert put_off.status is None
    assert put_off.look_again == pytest.approx(CALM - 0.5)
    running = decide(starting(), first, at(NOW + 1, pod(1)), at(NOW + 1, pod(2)), now=NOW + 1.2, reports=TRAINS)
    assert (running.status["phase"], running.status["workers"]) == ("Running", "3/3")


def test_workers_that_nobody_follows_are_counted_after_a_moment():
    pods = at(NOW, pod(0)), pod(1, phase="Pending"), pod(2, phase="Pending")
    late = decide(starting(), *pods, now=NOW + CALM)
    assert (late.status["workers"], late.status["message"]) == ("1/3", "1 of 3 workers run")


def test_why_a_worker_cannot_start_is_written_at_once():
    stuck = at(NOW, pod(0, phase="Pending"))
    waiting = {"reason": "ErrImagePull", "message": "no such image"}
    stuck["status"]["containerStatuses"] = [{"name": "worker", "state": {"waiting": waiting}}]
    told = decide(starting(), stuck, pod(1, phase="Pending"), pod(2, phase="Pending"), now=NOW + 0.1).status
    assert told["reason"] == "ErrImagePull"
    again = decide(job() | {"status": told}, stuck, at(NOW + 1, pod(1)), pod(2, phase="Pending"), now=NOW + 1.1)
    assert again.status is None, "the same trouble is no news"


def test_before_rank_0_was_asked_what_all_workers_do_is_not_written():
    """On a busy cluster they run for long when they are first looked at, and train when they are asked."""
    pods = [at(NOW, pod(rank)) for rank in range(3)]
    put_off = decide(starting(), *pods, now=NOW + 60)
    assert (put_off.status, put_off.look_again) == (None, CALM)
    unanswered = decide(starting(), *pods, now=NOW + 60, reports={LEADER: WorkerReport(None, NOW + 60, NOW + 60)})
    assert unanswered.status["workers"] == "3/3"


def test_a_clock_that_is_ahead_puts_nothing_off():
    pods = at(NOW + 3600, pod(0)), pod(1, phase="Pending"), pod(2, phase="Pending")
    assert decide(starting(), *pods, now=NOW).status["workers"] == "1/3"


def test_a_worker_whose_clock_is_ahead_puts_no_progress_off():
    resource, pods = started(job()), [at(NOW - 9, pod(rank)) for rank in range(3)]
    progress = [{"step": step, "totalSteps": 9, "at": NOW + 3600 + step} for step in (1, 2)]
    first, second = ({LEADER: report(progress=one)} for one in progress)
    recorded = resource | {"status": decide(resource, *pods, reports=first).status}
    assert decide(recorded, *pods, now=NOW + 30, reports=second).status["progress"]["step"] == 2


def test_a_loss_is_written_at_once():
    trains = decide(started(job()), *(at(NOW - 9, pod(rank)) for rank in range(3)), reports=TRAINS).status
    failed = at(NOW, pod(1, phase="Failed"))
    told = decide(job() | {"status": trains}, pod(0), failed, pod(2), now=NOW + 0.1, reports=TRAINS).status
    assert (told["phase"], told["restartCount"]) == ("Restarting", 1)
