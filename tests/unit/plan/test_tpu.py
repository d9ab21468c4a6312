"""What the pods of a slice of TPUs are told, beside what all are."""

from __future__ import annotations

import pytest

from muster.api import TrainingJob
from muster.plan.training.pods import build_pod, build_service
from tests.unit.plan.fixtures import SETTINGS, job

TPUS = {"resources": {"limits": {"google.com/tpu": 4}}}
NAMES = {"PJRT_DEVICE", "TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES"}


def environment(pod):
    (worker,) = pod["spec"]["containers"]
    return {one["name"]: one["value"] for one in worker["env"]}


def environments(**spec):
    read = TrainingJob.model_validate(job(**spec))
    return [environment(build_pod(read, SETTINGS, rank, attempt=1)) for rank in range(read.spec.replicas)]


@pytest.mark.parametrize(
    ("spec", "backend", "processes"),
    [
        (TPUS, "xla", "4"),
        (TPUS | {"backend": "gloo", "processesPerWorker": 1}, "gloo", "1"),
        ({"backend": "xla", "replicas": 1}, "xla", "1"),
    ],
    ids=["tpus", "tpus that recipes do not use", "xla on a cpu"],
)
def test_backend_and_processes_follow_the_tpus_unless_written(spec, backend, processes):
    told = environments(**spec)[0]
    assert (told["MUSTER_BACKEND"], told["MUSTER_PROCESSES"]) == (backend, processes)


def test_every_host_of_a_slice_knows_its_number_and_the_names_of_all():
    pods = environments(replicas=2, **TPUS)
    assert [pod["TPU_WORKER_ID"] for pod in pods] == ["0", "1"]
    assert {pod["TPU_WORKER_HOSTNAMES"] for pod in pods} == {"digits-0.digits-workers,digits-1.digits-workers"}
    assert {pod["PJRT_DEVICE"] for pod in pods} == {"TPU"}


def test_the_names_are_those_that_the_pods_have_in_every_attempt():
    read = TrainingJob.model_validate(job(replicas=2, **TPUS))
    pods = [build_pod(read, SETTINGS, rank, attempt=7) for rank in range(2)]
    names = [f"{pod['spec']['hostname']}.{pod['spec']['subdomain']}" for pod in pods]
    assert environment(pods[0])["TPU_WORKER_HOSTNAMES"].split(",") == names
    assert {pod["spec"]["subdomain"] for pod in pods} == {build_service(read)["metadata"]["name"]}


def test_the_only_host_of_a_slice_has_nobody_to_find():
    (pod,) = environments(replicas=1, **TPUS)
    assert pod.keys() & NAMES == {"PJRT_DEVICE"}


def test_xla_without_tpus_computes_on_the_cpu():
    (pod,) = environments(replicas=1, backend="xla")
    assert (pod["PJRT_DEVICE"], pod.keys() & NAMES) == ("CPU", {"PJRT_DEVICE"})


def test_who_has_no_tpus_is_told_nothing_of_them():
    assert all(pod.keys().isdisjoint(NAMES) for pod in environments(replicas=2))
