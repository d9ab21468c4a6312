"""What users make of a job while it runs, and how it ends."""

from __future__ import annotations

import time

import pytest
import yaml

from tests.cluster import jobs
from tests.cluster.kube import JOB, Kube, kubectl, wait_for
from tests.cluster.training import running, wait_until_it_trains

FAILS = "import sys; sys.exit({code})"


def patch(kube: Kube, **spec: object) -> None:
    change = yaml.safe_dump({"spec": spec})
    kubectl("patch", "trainingjob", "digits", "-n", kube.namespace, "--type=merge", "--patch", change)


def condition(kube: Kube, kind: str) -> str | None:
    return next((c["status"] for c in kube.status("digits").get("conditions", []) if c["type"] == kind), None)


def script(code: int, **spec: object) -> str:
    """A job of one worker whose program ends at once with that exit code."""
    run = {"script": {"command": ["python3", "-c", FAILS.format(code=code)]}, "replicas": 1}
    return yaml.safe_dump(
        {
            "apiVersion": "muster.dev/v1alpha1",
            "kind": "TrainingJob",
            "metadata": {"name": "digits"},
            "spec": run | spec,
        }
    )


@pytest.mark.long
def test_a_suspended_job_gives_its_room_back_and_goes_on_where_it_was(training, measure):
    suspended_at = time.time()
    patch(training, suspend=True)
    wait_for("the job is suspended", lambda: condition(training, "Suspended") == "True", 60)
    measure("suspend to no pod left, seconds", time.time() - suspended_at, "")
    assert running(training) == []
    status = training.status("digits")
    assert (status["phase"], status["replicas"]) == ("Suspended", 0)
    saved = status["checkpoint"]["step"]
    resumed_at = time.time()
    patch(training, suspend=False)
    state = wait_until_it_trains(training, "digits-0-2", attempt=2)
    measure("resume to next step, seconds", state["progress"]["firstStepAt"] - resumed_at, "")
    measure("suspended: steps lost", saved - state["progress"]["resumedFromStep"], "at most 0")
    assert state["progress"]["resumedFromStep"] >= saved
    status = training.wait_for_phase("digits", "Running", limit=60)
    assert (status["attempt"], status["restartCount"]) == (2, 0)
    assert condition(training, "Suspended") == "False"


def test_a_job_that_is_born_suspended_makes_nothing_until_it_may(kube):
    kube.apply(script(code=0, suspend=True))
    kube.wait_for_phase("digits", "Suspended", limit=30)
    assert kube.pods("digits") == {}
    patch(kube, suspend=False)
    assert kube.wait_for_phase("digits", "Succeeded", limit=120)["restartCount"] == 0


@pytest.mark.long
def test_a_job_past_its_deadline_fails_and_its_pods_go(kube, measure):
    begun = time.time()
    kube.apply(jobs.endless(activeDeadlineSeconds=15, podCleanup="All"))
    status = kube.wait_for_phase("digits", "Failed", limit=120)
    measure("deadline of 15 s: apply to Failed, seconds", time.time() - begun, "")
    assert status["reason"] == "DeadlineExceeded"
    wait_for("no pod is left", lambda: kube.pods("digits") == {}, 120)


def test_a_job_is_deleted_with_all_that_is_its_own_when_its_time_is_over(kube, measure):
    kube.apply(script(code=0, ttlSecondsAfterFinished=3))
    kube.wait_for_phase("digits", "Succeeded", limit=120)
    ended = time.time()
    wait_for("the job is gone", lambda: kube.get(JOB, "digits") is None, 120)
    measure("time to live of 3 s: Succeeded to gone, seconds", time.time() - ended, "")
    wait_for("its pods are gone", lambda: kube.pods("digits") == {}, 120)
    wait_for("its Service is gone", lambda: kube.list(("v1", "Service")) == [], 120)


def test_a_permanent_exit_code_ends_the_job_without_another_try(kube):
    kube.apply(script(code=2))
    status = kube.wait_for_phase("digits", "Failed", limit=120)
    assert (status["reason"], status["restartCount"]) == ("PermanentExitCode", 0)
    assert "exit code 2" in status["message"]


def test_a_job_that_fails_once_too_often_ends(kube):
    kube.apply(script(code=7, failurePolicy={"maxRestarts": 2}))
    status = kube.wait_for_phase("digits", "Failed", limit=180)
    assert status["reason"] == "RestartBudgetExhausted"
    assert status["restartCount"] >= 3
    assert [(r["attempt"], r["cause"], r["exitCode"]) for r in status["restarts"]][:2] == [
        (1, "ExitCode", 7), (2, "ExitCode", 7),
    ]  # fmt: skip
    events = kubectl("events", "-n", kube.namespace, "--for", "trainingjob/digits").stdout
    assert "RestartBudgetExhausted" in events


def test_rank_zero_alone_decides_where_the_spec_says_so(kube):
    program = "import os, time; time.sleep(0 if os.environ['RANK'] == '0' else 3600)"
    kube.apply(script(code=0, replicas=2, successPolicy="Rank0", script={"command": ["python3", "-c", program]}))
    status = kube.wait_for_phase("digits", "Succeeded", limit=120)
    assert status["reason"] == "Rank0Succeeded"
    wait_for("the other has ended as well", lambda: running(kube) == [], 120)


@pytest.mark.long
def test_a_namespace_that_goes_in_the_middle_takes_everything_along(kube):
    kube.apply(jobs.endless())
    wait_until_it_trains(kube, "digits-0-1")
    kubectl("delete", "namespace", kube.namespace, "--wait=true", "--timeout=120s")
    assert kubectl("get", "namespace", kube.namespace, check=False).returncode != 0
    kubectl("create", "namespace", kube.namespace)
    assert kube.get(JOB, "digits") is None
    assert kube.pods("digits") == {}
