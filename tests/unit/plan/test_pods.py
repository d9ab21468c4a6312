"""The pods and the Service of a job, and what `muster plan` prints of them."""

import json

import pytest
import yaml

from muster.plan import offline
from muster.plan.requests import of_pod
from tests.unit.plan.fixtures import SETTINGS, UID, job, started_at_once

GPUS = {"resources": {"limits": {"nvidia.com/gpu": 2, "cpu": "4"}}}


def pods(**spec):
    return started_at_once(**spec).creates


def worker(**spec):
    return pods(**spec)[0]["spec"]["containers"][0]


def environment(rank=0, **spec):
    return {entry["name"]: entry.get("value") for entry in pods(**spec)[rank]["spec"]["containers"][0]["env"]}


def test_a_worker_is_told_who_it_is_and_where_the_others_are():
    told = environment(rank=2)
    assert told["MUSTER_JOB_UID"] == UID
    assert (told["MUSTER_POD"], told["MUSTER_RANK"], told["MUSTER_REPLICAS"], told["MUSTER_ATTEMPT"]) == (
        "digits-2-1", "2", "3", "1",
    )  # fmt: skip
    assert told["MUSTER_COORDINATOR"] == "digits-0.digits-workers:7070"


def test_the_coordinators_name_is_the_host_name_of_rank_zero_in_the_service():
    spec, service = pods()[0]["spec"], started_at_once().applies[0]
    assert f"{spec['hostname']}.{spec['subdomain']}" == "digits-0.digits-workers"
    assert service["metadata"]["name"] == spec["subdomain"]
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)
    assert service["spec"]["selector"].items() <= pods()[0]["metadata"]["labels"].items()


@pytest.mark.parametrize(
    ("spec", "arguments"),
    [
        ({}, ["agent", "recipe", "pkg.module:Recipe"]),
        (
            {"script": {"command": ["train.py", "--epochs", "2"]}},
            ["agent", "script", "--", "train.py", "--epochs", "2"],
        ),
    ],
    ids=["recipe", "script"],
)
def test_what_runs_is_in_the_arguments(spec, arguments):
    assert worker(**spec)["args"] == arguments


@pytest.mark.parametrize(
    ("spec", "backend", "processes"),
    [
        ({}, "gloo", "1"),
        (GPUS, "nccl", "2"),
        (GPUS | {"backend": "gloo", "processesPerWorker": 3}, "gloo", "3"),
    ],
    ids=["cpu", "two gpus", "as it is written"],
)
def test_backend_and_processes_follow_the_gpus_unless_written(spec, backend, processes):
    told = environment(**spec)
    assert (told["MUSTER_BACKEND"], told["MUSTER_PROCESSES"]) == (backend, processes)


def test_parts_of_the_spec_reach_the_worker_as_the_manifest_writes_them():
    told = environment(
        recipe={"name": "pkg.module:Recipe", "config": {"epochs": 3}},
        checkpoint={"everySteps": 7, "keep": 2},
        optimisation={"learningRate": {"initial": "0.1", "schedule": "plateau"}},
        failurePolicy={"permanentExitCodes": [2, 9]},
        strategy={"type": "fsdp", "mesh": {"tensor": 1}},
        compression=[{"clip": {"epsilon": "3"}}, {"quantize": {"bits": 8, "maxAccuracyDrop": "0.01"}}],
        storage={"persistentVolumeClaim": {"claimName": "models"}},
    )
    assert json.loads(told["MUSTER_RECIPE_CONFIG"]) == {"epochs": 3}
    assert json.loads(told["MUSTER_CHECKPOINT"]) == {
        "everySteps": 7, "everySeconds": 60, "keep": 2, "asynchronous": True,
    }  # fmt: skip
    assert json.loads(told["MUSTER_OPTIMISATION"])["learningRate"]["initial"] == "0.1"
    assert json.loads(told["MUSTER_STRATEGY"]) == {"type": "fsdp", "mesh": {"tensor": 1}}
    assert json.loads(told["MUSTER_COMPRESSION"]) == [
        {"clip": {"epsilon": "3"}},
        {"quantize": {"bits": 8, "mode": "weightOnly", "maxAccuracyDrop": "0.01"}},
    ]
    assert told["MUSTER_PERMANENT_EXIT_CODES"] == "2,9"


def test_the_network_reaches_gloo_and_nccl_by_their_own_names():
    told = environment(network={"interface": "net1", "rdmaDevices": "mlx5_0,mlx5_1"})
    assert (told["GLOO_SOCKET_IFNAME"], told["NCCL_SOCKET_IFNAME"]) == ("net1", "=net1"), "not net10"
    assert told["NCCL_IB_HCA"] == "mlx5_0,mlx5_1"
    names = {"GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "NCCL_IB_HCA"}
    assert names.isdisjoint(environment())
    assert environment(network={"rdmaDevices": "mlx5"}).keys() & names == {"NCCL_IB_HCA"}


def test_storage_and_source_are_mounted_where_the_environment_says():
    spec = {
        "storage": {"persistentVolumeClaim": {"claimName": "models"}, "path": "a/b"},
        "source": {"configMap": "code"},
    }
    mounts = {mount["mountPath"]: mount for mount in worker(**spec)["volumeMounts"]}
    told = environment(**spec)
    assert mounts[told["MUSTER_STORAGE"]] == {"name": "storage", "mountPath": "/muster/storage", "subPath": "a/b"}
    assert mounts[told["MUSTER_SOURCE"]]["readOnly"] is True
    assert {"MUSTER_STORAGE", "MUSTER_SOURCE"}.isdisjoint(environment())


def test_pods_are_restricted_and_hold_no_credentials():
    spec = pods()[0]["spec"]
    container = spec["containers"][0]["securityContext"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["readOnlyRootFilesystem"] is True
    assert container["capabilities"] == {"drop": ["ALL"]}


def test_the_template_is_laid_over_and_what_it_must_not_touch_stands():
    variables = [{"name": "HOME", "value": "/tmp"}, {"name": "A", "value": "b"}]
    template = {
        "metadata": {"annotations": {"team": "vision"}, "labels": {"team": "vision"}},
        "spec": {
            "terminationGracePeriodSeconds": 90,
            "nodeSelector": {"disk": "nvme"},
            "containers": [{"name": "worker", "image": "mine:1", "env": variables}],
        },
    }
    pod = pods(template=template)[1]
    told = environment(rank=1, template=template)
    assert pod["metadata"]["annotations"] == {"team": "vision"}
    assert pod["metadata"]["labels"]["muster.dev/rank"] == "1"
    assert pod["metadata"]["labels"]["team"] == "vision"
    assert pod["spec"]["nodeSelector"] == {"disk": "nvme"}
    assert pod["spec"]["containers"][0]["image"] == "mine:1"
    assert (told["HOME"], told["A"], told["MUSTER_RANK"], told["MUSTER_GRACE_SECONDS"]) == ("/tmp", "b", "1", "90")


def test_limits_are_what_admission_counts():
    counted = of_pod(pods(**GPUS)[0]["spec"])
    assert (counted["nvidia.com/gpu"], counted["cpu"], counted["pods"]) == (2, 4, 1)


def test_everything_made_belongs_to_the_job():
    plan = started_at_once()
    for made in (*plan.applies, *plan.creates):
        assert [owner["uid"] for owner in made["metadata"]["ownerReferences"]] == [UID]


def test_offline_the_same_is_printed_that_the_first_attempt_makes():
    plan = started_at_once()
    printed = list(yaml.safe_load_all(offline.render([job()], SETTINGS)))
    assert printed == [*plan.applies, *plan.creates]
