"""What each system's objects say, read as the benchmark reads them."""

from __future__ import annotations

import pytest

from tests.bench.jobs import WORKERS
from tests.bench.measure import PEERS
from tests.bench.systems.jobset import JOBSET
from tests.bench.systems.muster import MUSTER
from tests.bench.systems.pytorchjob import PYTORCHJOB
from tests.bench.systems.system import Member, Told


def pytorchjob(active: tuple[int, int], *conditions: str) -> dict:
    return {
        "status": {
            "conditions": [{"type": one, "status": "True"} for one in conditions],
            "replicaStatuses": {"Master": {"active": active[0]}, "Worker": {"active": active[1]}},
        }
    }


def jobset(ready: int, restarts: int = 0, **more: str) -> dict:
    return {"status": {"restarts": restarts, "replicatedJobsStatus": [{"name": "workers", "ready": ready}], **more}}


@pytest.mark.parametrize(
    ("system", "object_", "told"),
    [
        (MUSTER, {}, Told("New")),
        (MUSTER, {"status": {"phase": "Running", "attempt": 2}}, Told("Running", 2)),
        (JOBSET, {}, Told("Waiting")),
        (JOBSET, jobset(ready=0, restarts=1), Told("Waiting", 1)),
        (JOBSET, jobset(ready=1, restarts=1), Told("Running", 1)),
        (JOBSET, jobset(ready=0, terminalState="Completed"), Told("Succeeded")),
        (JOBSET, jobset(ready=0, terminalState="Failed"), Told("Failed")),
        (PYTORCHJOB, {}, Told("Waiting")),
        (PYTORCHJOB, pytorchjob((1, 2), "Created", "Running"), Told("Waiting")),
        (PYTORCHJOB, pytorchjob((1, 3), "Created", "Running"), Told("Running")),
        (PYTORCHJOB, pytorchjob((0, 0), "Created", "Succeeded"), Told("Succeeded")),
        (PYTORCHJOB, pytorchjob((1, 2), "Created", "Failed"), Told("Failed")),
    ],
)
def test_a_status_tells_how_far_a_job_is(system, object_, told):
    assert system.told(object_) == told


@pytest.mark.parametrize(
    ("system", "labels", "member"),
    [
        (
            MUSTER,
            {"muster.dev/training-job": "one", "muster.dev/rank": "3", "muster.dev/attempt": "2"},
            Member("one", 3, 2),
        ),
        (
            JOBSET,
            {
                "jobset.sigs.k8s.io/jobset-name": "one",
                "batch.kubernetes.io/job-completion-index": "3",
                "jobset.sigs.k8s.io/restart-attempt": "1",
            },
            Member("one", 3, 1),
        ),
        *(
            (
                PYTORCHJOB,
                {
                    "training.kubeflow.org/job-name": "one",
                    "training.kubeflow.org/replica-type": type_,
                    "training.kubeflow.org/replica-index": index,
                },
                Member("one", rank, 0),
            )
            for type_, index, rank in (("master", "0", 0), ("worker", "0", 1), ("worker", "2", 3))
        ),
    ],
)
def test_labels_tell_whose_pod_it_is(system, labels, member):
    assert system.member(labels) == member
    assert system.label in labels


@pytest.mark.parametrize("system", [MUSTER, *PEERS.values()])
def test_every_system_is_asked_for_the_same_workers(system):
    job = system.manifest(21)
    assert (job["kind"], job["metadata"]) == (system.jobs.kind, {"name": "train-21", "namespace": "bench-2"})
    assert _workers(job["spec"]) == WORKERS


def _workers(spec: dict) -> int:
    if "replicas" in spec:
        return spec["replicas"]
    if "replicatedJobs" in spec:
        return sum(one["replicas"] * one["template"]["spec"]["parallelism"] for one in spec["replicatedJobs"])
    return sum(one["replicas"] for one in spec["pytorchReplicaSpecs"].values())


def test_a_system_may_be_given_fewer_jobs_than_muster():
    assert (MUSTER.number(1000), PYTORCHJOB.number(1000), PYTORCHJOB.number(50)) == (1000, 100, 50)
