"""The status is true, complete, and written no more often than it must."""

import pytest

from muster.api import TrainingJob
from muster.plan.conditions import find
from muster.plan.timestamps import to_timestamp
from tests.unit.plan.fixtures import NOW, UID, decide, job, node, nodes, observed, pod, report, started, started_at_once

LEADER = "uid-digits-0-1"
TRAINS = {
    "progress": {
        "epoch": 2,
        "step": 50,
        "totalSteps": 100,
        "at": NOW,
        "firstStepAt": NOW - 49,
        "resumedFromStep": 1,
    }
}
THREE = pod(0), pod(1), pod(2)


def test_running_means_that_every_worker_runs_and_the_group_says_that_it_trains():
    status = decide(started(job()), *THREE, reports={LEADER: report(**TRAINS, metrics={"loss": 0.0412345})}).status
    assert status["phase"] == "Running"
    assert find(status["conditions"], "Running")["status"] == "True"
    assert (status["replicas"], status["readyReplicas"], status["workers"]) == (3, 3, "3/3")
    assert status["progress"] == {
        "epoch": 2, "step": 50, "totalSteps": 100, "percent": 50, "secondsLeft": 50,
        "steps": "50/100", "timeLeft": "50s", "reportedAt": to_timestamp(NOW),
    }  # fmt: skip
    assert status["metrics"] == {"loss": "0.04123"}
    assert status["selector"] == "muster.dev/training-job=digits"


def test_what_is_no_number_any_more_is_told_in_no_column():
    resource, told = started(job()), []
    for later, metrics in (0, {"loss": 0.3, "rate": 1}), (60, {"rate": 1}):
        said = {LEADER: report(**TRAINS, metrics=metrics)}
        status = decide(resource, *THREE, now=NOW + later, reports=said).status
        resource |= {"status": status}
        told.append((status.get("metric"), status["metrics"]))
    assert told == [("loss 0.3", {"loss": "0.3", "rate": "1"}), (None, {"rate": "1"})]


def test_pods_that_run_are_not_yet_a_group_that_trains():
    for said in ({}, {LEADER: report(phase="Waiting")}, {LEADER: report(phase="Starting")}):
        assert decide(started(job(), phase="Starting"), *THREE, reports=said).status is None or (
            decide(started(job(), phase="Starting"), *THREE, reports=said).status["phase"] == "Starting"
        )


def test_a_group_that_speaks_of_an_earlier_attempt_does_not_train_yet():
    status = decide(
        started(job(), attempt=2), pod(0), pod(1, attempt=2), pod(2), reports={LEADER: report(**TRAINS)}
    ).status
    assert status["phase"] == "Restarting"


def test_an_operator_that_has_just_started_writes_nothing_of_a_job_that_trains():
    trains = decide(started(job()), *THREE, reports={LEADER: report(**TRAINS)}).status
    assert decide(job() | {"status": trains}, *THREE).status is None
    replaced = decide(job() | {"status": trains}, pod(0), pod(1, attempt=2), pod(2)).status
    assert replaced["phase"] == "Restarting"


def test_never_running_on_a_dead_node():
    cut_off = nodes(node("node-1"), node("node-2", ready="Unknown", since=NOW))
    patient = started(job(failurePolicy={"nodeLostSeconds": 60}))
    status = decide(
        patient, pod(0), pod(1, node="node-2"), pod(2), nodes=cut_off, reports={LEADER: report(**TRAINS)}
    ).status
    assert status["phase"] == "Restarting"
    assert "node-2" in status["message"]


def test_why_a_pod_cannot_start_is_told():
    stuck = pod(1, phase="Pending", waiting="ImagePullBackOff")
    status = decide(started(job(), phase="Starting"), pod(0), stuck, pod(2)).status
    assert (status["phase"], status["reason"]) == ("Starting", "ImagePullBackOff")
    assert "digits-1-1 cannot start: no such image" in status["message"]


def converged(**more):
    resource = started(job())
    status = decide(resource, *THREE, reports={LEADER: report(**TRAINS)}).status
    return resource | {"status": status | more}


def test_nothing_is_written_while_nothing_changes():
    plan = decide(converged(), *THREE, reports={LEADER: report(**TRAINS)}, services=(service(),))
    assert plan.status is None
    assert plan.creates == plan.applies == plan.deletes == plan.events == ()


def service():
    made = started_at_once().applies[0]
    return {key: made[key] for key in ("metadata", "spec")} | {"status": {}}


def test_a_changed_service_is_put_right():
    broken = service() | {"spec": {"clusterIP": "None"}}
    assert len(decide(converged(), *THREE, reports={LEADER: report(**TRAINS)}, services=(broken,)).applies) == 1


def test_progress_alone_is_written_every_tenth_of_the_age():
    further = TRAINS | {"progress": TRAINS["progress"] | {"step": 60, "at": NOW + 3}}
    said = {LEADER: report(**further)}
    early = decide(converged(), *THREE, now=NOW + 3, reports=said, services=(service(),))
    assert early.status is None
    assert 0 < early.look_again <= 3
    late = decide(converged(), *THREE, now=NOW + 6, reports=said, services=(service(),))
    assert late.status["progress"]["step"] == 60


def test_what_was_measured_stays_while_the_group_is_silent():
    plan = decide(converged(), pod(0, phase="Failed"), pod(1), pod(2))
    assert plan.status["progress"]["step"] == 50
    assert plan.status["restarts"][0]["step"] == 50


def test_a_restart_in_place_is_recorded_as_the_agents_tell_it():
    said = {
        "attempt": 1, "cause": "Signal", "rank": 1, "pod": "digits-1-1", "exitCode": 137, "at": NOW - 5,
        "message": "rank 1 was killed by SIGKILL", "recoverySeconds": 2.24, "stepsLost": 3,
    }  # fmt: skip
    status = decide(started(job()), *THREE, reports={LEADER: report(attempt=2, restarts=[said], **TRAINS)}).status
    assert status["restarts"] == [
        {
            "attempt": 1, "cause": "Signal", "rank": 1, "pod": "digits-1-1", "node": "node-1", "exitCode": 137,
            "message": "rank 1 was killed by SIGKILL", "at": to_timestamp(NOW - 5),
            "recoverySeconds": "2.2", "stepsLost": 3,
        }
    ]  # fmt: skip
    assert status["restartCount"] == 1


def test_what_the_loss_of_a_pod_cost_is_filled_in_once_the_group_trains_again():
    lost = decide(converged(), pod(0), pod(1, phase="Failed"), pod(2)).status
    again = report(attempt=2, progress={"step": 43, "at": NOW + 9, "firstStepAt": NOW + 8.5, "resumedFromStep": 42})
    pods = pod(0), pod(1, attempt=2), pod(2)
    status = decide(job() | {"status": lost}, *pods, now=NOW + 9, reports={LEADER: again}).status
    assert status["phase"] == "Running"
    assert status["restarts"][0]["recoverySeconds"] == "8.5"
    assert status["restarts"][0]["stepsLost"] == 8


def test_rank_zero_is_asked_and_nobody_else():
    plan = decide(started(job()), *THREE)
    assert [(t.pod_uid, t.address, t.port) for t in plan.scrape] == [(LEADER, "10.0.0.1", 7070)]


def test_nobody_is_asked_before_all_workers_of_a_group_that_starts_run():
    assert decide(started(job(), phase="Starting"), pod(0), pod(1, phase="Pending"), pod(2)).scrape == ()


def test_the_answer_is_waited_for_until_the_group_trains():
    def eager(phase, *pods):
        return decide(started(job(), phase=phase), *pods).scrape[0].eager

    assert not eager("Restarting", pod(0), pod(1, phase="Pending"), pod(2))
    assert eager("Starting", *THREE)
    assert not eager("Running", *THREE)


def test_events_tell_each_change_of_phase_once():
    plan = decide(converged(), pod(0), pod(1, phase="Failed", exit_code=1), pod(2))
    assert [(e.type, e.reason) for e in plan.events] == [("Warning", "Restarting")]
    assert "digits-1-1 ended with exit code 1" in plan.events[0].message
    assert decide(job() | {"status": plan.status}, pod(0), pod(1, attempt=2, phase="Pending"), pod(2)).events == ()


def test_every_status_is_what_the_api_declares():
    for plan in (
        decide(converged(), pod(0), pod(1, phase="Failed"), pod(2)),
        decide(started(job()), *THREE, reports={LEADER: report(**TRAINS)}),
        started_at_once(),
        decide(started(job()), *(pod(rank, phase="Succeeded") for rank in range(3))),
        decide(started(job(failurePolicy={"maxRestarts": 0})), pod(0), pod(1), pod(2, phase="Failed")),
    ):
        declared = TrainingJob.model_validate(job() | {"status": plan.status}).status
        assert declared is not None
        assert declared.manifest() == plan.status
    assert observed(job()).resource["metadata"]["uid"] == UID


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ({"model": {"name": "resnet50"}}, {}),
        (
            {"model": {"path": "model", "step": "best", "bytes": 7.5, "sha256": "5e0c"}},
            {"path": "model", "sha256": "5e0c"},
        ),
        ({"model": {"compression": [1, {"step": "clip"}, {"step": {"clip": 3}, "bytesBefore": "many"}]}}, None),
        ({"checkpoint": {"step": "best", "bytes": True, "path": "step-7"}}, {"path": "step-7"}),
    ],
    ids=str,
)
def test_of_what_a_script_says_the_status_has_what_it_has_a_field_for(said, kept):
    """Else the API server refuses the status, again and again."""
    ((part, _),) = said.items()
    resource = started(job(script={"command": ["train.py"]}), phase="Starting")
    status = decide(resource, *THREE, reports={LEADER: report(**TRAINS, **said)}).status
    assert status.get(part, {}) == ({"compression": [{"step": "clip"}]} if kept is None else kept)
    TrainingJob.model_validate(resource | {"status": status})


def test_who_slows_the_others_down_is_named_until_the_group_says_otherwise():
    slow = [{"pod": "digits-2", "slowdown": 1.812}, {"pod": "digits-2", "slowdown": 2.5}]
    answer = decide(started(job()), *THREE, reports={LEADER: report(**TRAINS, stragglers=slow)})
    assert answer.status["stragglers"] == [{"pod": "digits-2", "slowdown": "2.5"}]
    message = "digits-2 takes 2.5 times as long as others, who wait for it"
    assert ("Warning", "Straggler", message) in [(one.type, one.reason, one.message) for one in answer.events]

    named = {"stragglers": [{"pod": "digits-2", "slowdown": "2.5"}]}
    again = decide(started(job(), **named), *THREE, reports={LEADER: report(**TRAINS, stragglers=slow[1:])})
    assert [one.reason for one in again.events if one.reason == "Straggler"] == [], "said once"
    silent = decide(started(job(), **named), *THREE, reports={LEADER: report(**TRAINS)}).status
    assert silent["stragglers"] == named["stragglers"], "it has begun anew and has not looked yet"
    over = decide(started(job(), **named), *THREE, reports={LEADER: report(**TRAINS, stragglers=[])}).status
    assert "stragglers" not in over
