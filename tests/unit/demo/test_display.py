"""The demo's sentences about a job."""

from __future__ import annotations

from demo import display

SPEC = {"replicas": 3, "storage": {"persistentVolumeClaim": {"claimName": "models"}, "path": "digits"}}
RUNNING = {
    "spec": SPEC,
    "status": {
        "phase": "Running",
        "readyReplicas": 3,
        "progress": {"epoch": 7, "step": 812, "totalSteps": 2000, "percent": 40, "secondsLeft": 95},
        "metrics": {
            "loss": "0.041",
            "validationAccuracy": "0.981",
            "samplesPerSecond": "5123",
            "learningRate": "0.05",
        },
    },
}


def condition(kind, message, at):
    return {"type": kind, "status": "True", "message": message, "lastTransitionTime": at}


def test_a_running_job_is_one_line_of_progress():
    assert display.line(RUNNING, elapsed=75) == (
        " 1:15  Running     3/3 workers  ████████░░░░░░░░░░░░  40%  step 812/2000  loss 0.041  accuracy 0.981"
        "  samples/s 5123  1:35 left"
    )


def test_a_waiting_job_says_why_by_its_latest_condition():
    job = {
        "spec": SPEC,
        "status": {
            "phase": "Queued",
            "conditions": [
                condition("Admitted", "3 pods need 12 GPUs, 8 are free", "2026-11-24T05:00:02Z"),
                condition("Running", "no worker runs", "2026-11-24T05:00:01Z"),
            ],
        },
    }

    assert display.line(job, elapsed=3) == " 0:03  Queued      0/3 workers  3 pods need 12 GPUs, 8 are free"


def test_a_job_without_a_status_waits_for_the_operator():
    line = display.line({"spec": SPEC}, elapsed=0)

    assert line == " 0:00  Pending     0/3 workers  the operator has not seen it yet"


def test_a_script_that_reports_only_steps_has_no_bar():
    job = {"spec": SPEC, "status": {"phase": "Running", "readyReplicas": 3, "progress": {"step": 5}}}

    assert display.line(job, elapsed=9) == " 0:09  Running     3/3 workers  step 5"


def test_a_survived_failure_names_pod_node_and_exit_code():
    record = {"attempt": 1, "cause": "NodeLost", "pod": "digits-1-1", "node": "node-2", "exitCode": None}

    assert display.restart(record) == "attempt 1 ended: NodeLost of digits-1-1 on node-2; training goes on"
    assert "exit code 137" in display.restart(record | {"exitCode": 137})


def test_the_model_is_placed_in_its_claim():
    job = {"spec": SPEC, "status": {"phase": "Succeeded", "model": {"path": "model"}}}

    assert display.model_place(job) == "digits/model in the PersistentVolumeClaim models"


def test_only_the_two_last_phases_are_an_end():
    phases = ["Pending", "Queued", "Starting", "Running", "Restarting", "Suspended", "Succeeded", "Failed"]
    ends = [phase for phase in phases if display.ended({"status": {"phase": phase}})]

    assert ends == ["Succeeded", "Failed"]
    assert not display.ended({})
    assert [phase for phase in ends if display.succeeded({"status": {"phase": phase}})] == ["Succeeded"]
