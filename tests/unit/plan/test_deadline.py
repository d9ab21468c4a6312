"""`activeDeadlineSeconds`: from the moment that the pods were made."""

import pytest

from tests.unit.plan.fixtures import decide, job, pod, room, started

WORKERS = pod(0), pod(1), pod(2)  # since 50 seconds


def test_a_job_that_has_time_goes_on_and_is_looked_at_again_when_it_is_over():
    plan = decide(started(job(activeDeadlineSeconds=80)), *WORKERS)
    assert plan.status["phase"] != "Failed"
    assert plan.look_again == pytest.approx(30)


def test_a_job_that_ran_for_too_long_fails_and_says_so():
    status = decide(started(job(activeDeadlineSeconds=50)), *WORKERS).status
    assert (status["phase"], status["reason"]) == ("Failed", "DeadlineExceeded")
    assert "spec.activeDeadlineSeconds = 50" in status["message"]


def test_success_at_the_last_moment_is_success():
    done = tuple(pod(rank, phase="Succeeded") for rank in range(3))
    assert decide(started(job(activeDeadlineSeconds=50)), *done).status["phase"] == "Succeeded"


def test_waiting_for_room_does_not_count():
    assert decide(job(activeDeadlineSeconds=1), capacity=room()).status["phase"] == "Starting"


def test_a_suspension_sets_the_clock_back():
    suspended = decide(started(job(suspend=True, activeDeadlineSeconds=50))).status
    assert suspended["phase"] == "Suspended"
    resumed = decide(job(activeDeadlineSeconds=50) | {"status": suspended}, capacity=room()).status
    workers = tuple(pod(rank, attempt=2, phase="Pending") for rank in range(3))
    plan = decide(job(activeDeadlineSeconds=50) | {"status": resumed}, *workers)
    assert plan.look_again == pytest.approx(50)
