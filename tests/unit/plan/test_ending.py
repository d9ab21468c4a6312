"""The end is recorded first; then what still runs is removed, and nothing is made any more."""

import pytest

from muster.plan.conditions import find, is_true
from tests.unit.plan.fixtures import NOW, beside_a_proxy, decide, job, names, node, nodes, pod, started

LAST_WORDS = {
    "attempt": 1,
    "phase": "Succeeded",
    "progress": {"step": 200, "totalSteps": 200, "epoch": 5, "at": NOW},
    "metrics": {"validationAccuracy": 0.98123},
    "model": {"path": "model", "bytes": 1234, "sha256": "ab" * 32},
    "checkpoint": {"step": 200, "bytes": 99, "path": "checkpoints/step-00000200", "at": NOW},
}


def test_given_all_workers_ended_with_zero_then_the_job_has_succeeded():
    pods = (
        pod(0, phase="Succeeded", last_words=LAST_WORDS),
        pod(1, phase="Succeeded"),
        pod(2, phase="Succeeded"),
    )
    status = decide(started(job()), *pods).status
    assert status["phase"] == "Succeeded"
    assert is_true(status["conditions"], "Complete")
    assert not is_true(status["conditions"], "Running")
    assert status["metrics"] == {"validationAccuracy": "0.9812"}
    assert status["model"]["path"] == "model"
    assert status["progress"]["percent"] == 100
    assert (status["workers"], status["readyReplicas"]) == ("3/3", 0)
    assert status["completionTime"] == "2027-01-15T08:00:00Z"


STOPPING = {"earlyStopping": {"metric": "validationLoss"}}
EARLY = {"step": 80, "totalSteps": 80, "epoch": 2, "totalEpochs": 5, "at": NOW}
IN_TIME = EARLY | {"epoch": 5}
STOPPED = "; training ended after epoch 2 of 5: validationLoss got no better"
BEST = "; the model is that of step 40: the best"


@pytest.mark.parametrize(
    ("spec", "progress", "step", "told"),
    [
        ({"optimisation": STOPPING}, EARLY, 80, STOPPED),
        ({"optimisation": STOPPING, "checkpoint": {"bestBy": "validationLoss"}}, EARLY, 40, STOPPED + BEST),
        ({"checkpoint": {"bestBy": "validationLoss"}}, IN_TIME, 40, BEST),
        ({"checkpoint": {"bestBy": "validationLoss"}}, IN_TIME, 80, ""),
        ({"optimisation": STOPPING}, IN_TIME, 80, ""),
        ({"optimisation": STOPPING}, LAST_WORDS["progress"], 200, ""),  # of an image from before totalEpochs
        ({"optimisation": {"gradientAccumulation": 2}}, EARLY, 80, ""),
        ({"optimisation": STOPPING}, {}, None, ""),
    ],
)
def test_the_message_says_that_training_ended_early_and_that_the_model_is_not_the_last(spec, progress, step, told):
    words = LAST_WORDS | {"progress": progress, "model": LAST_WORDS["model"] | ({"step": step} if step else {})}
    pods = [pod(rank, phase="Succeeded", last_words=words) for rank in range(3)]
    decided = decide(started(job(**spec)), *pods)
    message = f"all 3 workers ended with exit code 0{told}"
    assert decided.status["message"] == message
    assert find(decided.status["conditions"], "Complete")["message"] == message
    assert decided.status.get("progress", {}).get("totalEpochs") == progress.get("totalEpochs")
    assert [event.message for event in decided.events] == [f"{message} (AllWorkersSucceeded)"]


def test_what_an_operator_that_died_had_recorded_is_told_at_the_end():
    recorded = {"progress": EARLY, "model": {"path": "model", "step": 40}}
    resource = started(job(optimisation=STOPPING, checkpoint={"bestBy": "validationLoss"}))
    resource["status"] |= recorded
    status = decide(resource, *[pod(rank, phase="Succeeded") for rank in range(3)]).status
    assert status["message"] == f"all 3 workers ended with exit code 0{STOPPED}{BEST}"


def test_what_compression_did_is_told_in_the_statuss_words():
    report = {
        "step": {"quantize": {"bits": 8}},
        "bytesBefore": 400,
        "bytesAfter": 110,
        "memoryBefore": 380,
        "memoryAfter": 100,
        "latencyBefore": 0.000178,
        "latencyAfter": 0.000304,
        "accuracyBefore": 0.99161,
        "accuracyAfter": None,
    }
    words = LAST_WORDS | {"model": {**LAST_WORDS["model"], "compression": [report]}}
    pods = [pod(rank, phase="Succeeded", last_words=words) for rank in range(3)]
    (told,) = decide(started(job()), *pods).status["model"]["compression"]
    assert told == {
        "step": "quantize",
        "bytesBefore": 400,
        "bytesAfter": 110,
        "memoryBefore": 380,
        "memoryAfter": 100,
        "latencyMillisecondsBefore": "0.178",
        "latencyMillisecondsAfter": "0.304",
        "accuracyBefore": "0.9916",
    }


def test_one_worker_that_still_runs_is_no_success():
    pods = pod(0, phase="Succeeded"), pod(1, phase="Succeeded"), pod(2)
    assert decide(started(job()), *pods).status["phase"] != "Succeeded"


def test_an_older_pod_of_a_rank_does_not_hinder_success():
    pods = (
        pod(0, phase="Failed"),
        pod(0, attempt=2, phase="Succeeded"),
        pod(1, phase="Succeeded"),
        pod(2, phase="Succeeded"),
    )
    assert decide(started(job(), attempt=2), *pods).status["phase"] == "Succeeded"


def test_with_rank_zeros_policy_the_others_are_not_waited_for():
    rank_zero = job(successPolicy="Rank0")
    status = decide(started(rank_zero), pod(0, phase="Succeeded"), pod(1), pod(2, phase="Failed")).status
    assert (status["phase"], status["reason"]) == ("Succeeded", "Rank0Succeeded")
    others = decide(started(rank_zero), pod(0), pod(1, phase="Succeeded"), pod(2, phase="Succeeded")).status
    assert others["phase"] != "Succeeded"


def test_what_something_else_has_put_into_the_pods_does_not_keep_a_job_from_its_end():
    pods = [beside_a_proxy(pod(rank, phase="Succeeded", last_words=LAST_WORDS)) for rank in range(3)]
    status = decide(started(job()), *pods).status
    assert status["phase"] == "Succeeded"
    assert status["model"]["path"] == "model"
    assert [delete.name for delete in decide(ended("Complete"), *pods).deletes] == [
        one["metadata"]["name"] for one in pods
    ]


def ended(kind="Failed", **spec):
    over = {
        "type": kind,
        "status": "True",
        "reason": "R",
        "message": "m",
        "lastTransitionTime": "2027-01-15T08:00:00Z",
    }
    return started(job(**spec), phase=kind, conditions=[over], observedGeneration=1)


def test_what_still_runs_after_the_end_is_removed_and_what_ended_is_kept():
    plan = decide(ended(), pod(0), pod(1, phase="Failed"), pod(2, phase="Pending"))
    assert [delete.name for delete in plan.deletes] == ["digits-0-1", "digits-2-1"]
    assert plan.creates == plan.applies == plan.scrape == ()
    assert plan.status is None


@pytest.mark.parametrize(
    ("cleanup", "removed"),
    [("All", ["digits-0-1", "digits-1-1"]), ("Running", ["digits-0-1"]), ("None", [])],
)
def test_the_spec_says_which_pods_go_at_the_end(cleanup, removed):
    plan = decide(ended(podCleanup=cleanup), pod(0), pod(1, phase="Succeeded"), pod(2, deleting=True))
    assert [delete.name for delete in plan.deletes] == removed


def test_what_is_being_removed_is_not_removed_again():
    assert decide(ended(), pod(0, deleting=True)).deletes == ()


def test_what_cannot_end_by_itself_any_more_is_removed_by_force():
    cut_off = nodes(node("node-1", ready="Unknown"))
    deletes = decide(ended(), pod(0, deleting=True), nodes=cut_off).deletes
    assert [(delete.grace_seconds, delete.resource_version) for delete in deletes] == [(0, "7")]


def test_a_change_of_the_spec_after_the_end_is_looked_at_and_changes_nothing():
    over = ended("Complete", podCleanup="All")
    over["metadata"]["generation"] += 1
    plan = decide(over, pod(0, phase="Succeeded"))
    assert plan.status == over["status"] | {"observedGeneration": over["metadata"]["generation"]}
    over["status"] = plan.status
    assert decide(over).status is None


def test_nothing_is_made_after_the_end():
    assert names(decide(ended("Complete")).creates) == []
