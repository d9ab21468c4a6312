"""The demo's sentences about a job."""

from __future__ import annotations

from typing import Any

from demo import display

SPEC = {"replicas": 3, "storage": {"persistentVolumeClaim": {"claimName": "models"}, "path": "digits"}}


def job(**status):
    return {"spec": SPEC, "status": status}


def test_a_running_job_is_one_line_of_progress():
    running = job(
        phase="Running",
        workers="3/3",
        message="3 of 3 workers train",
        progress={"epoch": 7, "step": 812, "steps": "812/2000", "percent": 40, "timeLeft": "1m35s"},
        metrics={"loss": "0.041", "validationAccuracy": "0.981", "learningRate": "0.05"},
    )

    assert display.line(running, elapsed=75) == (
        " 1:15  Running     3/3 workers  ████████░░░░░░░░░░░░  40%  step 812/2000  loss 0.041  accuracy 0.981"
        "  1m35s left"
    )


def test_a_waiting_job_says_why():
    queued = job(phase="Queued", workers="0/3", message="3 pods need 12 GPUs, 8 are free")

    assert display.line(queued, elapsed=3) == " 0:03  Queued      0/3 workers  3 pods need 12 GPUs, 8 are free"


def test_a_job_without_a_status_waits_for_the_operator():
    line = display.line({"spec": SPEC}, elapsed=0)

    assert line == " 0:00  Pending     0/3 workers  the operator has not looked at it yet"


def test_a_script_that_reports_only_steps_has_no_bar():
    running = job(phase="Running", workers="3/3", progress={"step": 5, "percent": None})

    assert display.line(running, elapsed=9) == " 0:09  Running     3/3 workers  step 5"


def test_a_survived_failure_says_what_happened_and_where():
    record = {"attempt": 1, "cause": "NodeLost", "message": "node-2 is unreachable", "pod": "digits-1-1"}

    assert display.restart(record) == "attempt 1 ended: node-2 is unreachable (digits-1-1); training goes on"
    assert "(digits-1-1 on node-2)" in display.restart(record | {"node": "node-2"})
    assert display.restart({"attempt": 2, "cause": "Signal"}) == "attempt 2 ended: Signal; training goes on"


def test_the_model_is_placed_in_its_claim():
    succeeded = job(phase="Succeeded", model={"path": "model"})

    assert display.model_place(succeeded) == "digits/model in the PersistentVolumeClaim models"


def test_only_the_two_last_phases_are_an_end():
    phases = ["Pending", "Queued", "Starting", "Running", "Restarting", "Suspended", "Succeeded", "Failed"]
    ends = [phase for phase in phases if display.ended(job(phase=phase))]

    assert ends == ["Succeeded", "Failed"]
    assert not display.ended({})
    assert [phase for phase in ends if display.succeeded(job(phase=phase))] == ["Succeeded"]


def deployed(generation: int = 1, **status: Any) -> dict[str, Any]:
    known = {"phase": "Ready", "ready": "2/2", "message": "2 groups answer", "observedGeneration": 1} | status
    return {"metadata": {"generation": generation}, "spec": {"replicas": 2}, "status": known}


def test_a_deployment_is_told_in_one_line():
    assert display.deployment(deployed()) == "Ready       2/2 replicas  2 groups answer"
    assert display.deployment(deployed() | {"status": {}}) == (
        "Pending     0/2 replicas  the operator has not looked at it yet"
    )


def test_it_is_served_when_the_newest_spec_is_and_the_restart_is_over():
    assert display.is_served(deployed(), "")
    assert not display.is_served(deployed(generation=2), "")
    assert not display.is_served(deployed(phase="RollingOut"), "")
    assert not display.is_served(deployed(restart={"observed": "now"}), "now")
    assert display.is_served(deployed(restart={"observed": "now", "completedAt": "2026-11-26T11:00:00Z"}), "now")


def test_an_image_is_drawn_beside_the_digit_that_it_is_taken_for_and_why():
    image = [0.0] * 64
    image[24:32] = [1.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 1.0]
    why = [0.0] * 64
    why[24:27] = [2.0, -2.0, 1.0]
    explanation = {"outputs": [{"data": why}]}
    drawn = display.answer({"inputs": [{"data": image}]}, {"outputs": [{"data": [0.1, 0.2, 9.5, -1.0]}]}, explanation)
    assert drawn.splitlines()[3] == "    ██  ▒▒        ██    is a 2, for    ██··▒▒"
    assert set("".join(drawn.splitlines()[:3])) == set()
