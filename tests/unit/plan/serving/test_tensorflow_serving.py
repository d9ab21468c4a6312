"""runtime: tensorflowServing. What tests/cluster has read by the real messages is here compared word by word."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from muster.plan import offline
from muster.plan.model import Settings
from tests.unit.plan.fixtures import NOW
from tests.unit.plan.serving.fixtures import decide, deployment, known, pod, revision

RUNTIME = {"runtime": "tensorflowServing"}
OWN = revision(**RUNTIME)


def made(**spec: Any) -> dict[str, Any]:
    first, _ = decide(deployment(**RUNTIME | spec)).creates
    return dict(first)


def container(**spec: Any) -> dict[str, Any]:
    (only,) = made(**spec)["spec"]["containers"]
    return dict(only)


def flags(**spec: Any) -> dict[str, str]:
    parts = (argument.removeprefix("--").partition("=") for argument in container(**spec)["args"])
    return {name: value for name, _, value in parts}


def files(**spec: Any) -> dict[str, str]:
    """What the volume `config` shows, by the path in the container: annotations of the pod."""
    of = made(**spec)
    (volume,) = (one for one in of["spec"]["volumes"] if one["name"] == "muster-config")
    (mount,) = (one for one in container(**spec)["volumeMounts"] if one["name"] == "muster-config")
    shown = {
        f"{mount['mountPath']}/{one['path']}": one["fieldRef"]["fieldPath"] for one in volume["downwardAPI"]["items"]
    }
    annotations = {f"metadata.annotations['{name}']": text for name, text in of["metadata"]["annotations"].items()}
    return {path: annotations[field] for path, field in shown.items()}


def test_the_server_itself_is_started_with_its_ports_and_no_shell_around_it():
    assert container()["command"] == ["tensorflow_model_server"]
    ports = {one["name"]: str(one["containerPort"]) for one in container()["ports"]}
    assert ports == {"http": flags()["rest_api_port"], "grpc": flags()["port"]}


@pytest.mark.parametrize(
    ("path", "version"),
    [("digits/3", "3"), ("digits/00000123/", "00000123"), ("digits/model", "1"), ("3/digits", "1"), (None, "1")],
)
def test_the_one_version_that_the_path_names_is_mounted_read_only(path: str | None, version: str):
    claim = {"claimName": "models"} | ({"path": path} if path else {})
    mounts = {one["name"]: one for one in container(model={"persistentVolumeClaim": claim})["volumeMounts"]}
    below = {"subPath": path} if path else {}
    assert mounts["storage"] == {"name": "storage", "mountPath": f"/models/digits/{version}", "readOnly": True} | below
    assert 'base_path: "/models/digits"' in files()[flags()["model_config_file"]]


def test_its_configuration_is_in_files_that_the_pod_has_as_annotations():
    batching = {"maxBatchSize": 8, "maxDelayMilliseconds": 2}
    named = flags(batching=batching)
    assert files(batching=batching) == {
        named["model_config_file"]: (
            'model_config_list { config { name: "digits" base_path: "/models/digits" model_platform: "tensorflow" } }'
        ),
        named["monitoring_config_file"]: "prometheus_config { enable: true }",
        named["batching_parameters_file"]: (
            "max_batch_size { value: 8 }\nbatch_timeout_micros { value: 2000 }\nmax_enqueued_batches { value: 1000000 }"
        ),
    }
    assert "enable_batching" in named


def test_it_does_not_batch_unless_it_is_told_to():
    assert not {"enable_batching", "batching_parameters_file"} & flags().keys()
    assert len(files()) == 2


def test_it_is_started_once_it_listens_and_let_in_while_requests_reach_the_model():
    probes = {name: container()[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {one["port"] for one in probes.values()} == {"http"}
    assert {name: one["path"] for name, one in probes.items()} == {
        "startup": "/v1/models/digits",
        "readiness": "/v1/models/digits/metadata",
        "liveness": "/v1/models/digits",
    }


@pytest.mark.parametrize("drain", [1, 30, 3600])
def test_it_answers_as_long_as_it_may_and_grpc_clients_have_left_before_it_ends(drain: int):
    rollout = {"drainSeconds": drain}
    sleeps = container(rollout=rollout)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert sleeps == drain < made(rollout=rollout)["spec"]["terminationGracePeriodSeconds"]
    name, _, oldest = flags(rollout=rollout)["grpc_channel_arguments"].partition("=")
    assert name == "grpc.max_connection_age_ms"
    assert 0 < int(oldest) <= drain * 1000 / 3


def test_a_model_that_does_not_load_is_not_tried_again_in_silence():
    assert flags()["max_num_load_retries"] == "0"


def test_the_template_has_the_last_word_about_image_and_configuration():
    annotations = {"muster.dev/monitoring.config": "prometheus_config { enable: false }", "mine": "too"}
    template = {
        "metadata": {"annotations": annotations},
        "spec": {"containers": [{"name": "worker", "image": "mine:1"}]},
    }
    assert container(template=template)["image"] == "mine:1"
    assert files(template=template)[flags()["monitoring_config_file"]] == "prometheus_config { enable: false }"
    assert made(template=template)["metadata"]["annotations"]["mine"] == "too"


def test_it_is_let_in_and_asked_nothing_and_its_url_is_that_of_its_own_protocol():
    there = (pod(0, 1, OWN), pod(1, 2, OWN, serving_since=NOW - 60))
    answer = decide(deployment(known(OWN), **RUNTIME), *there, revisions=(OWN,))
    assert (answer.scrape, answer.status["phase"]) == ((), "Ready")
    assert answer.status["url"] == "http://digits.research.svc/v1/models/digits"


def test_muster_plan_shows_the_pods_with_the_image_that_the_operator_was_told():
    settings = Settings(worker_image="worker:1", tensorflow_serving_image="tensorflow/serving:2.19.1")
    objects = list(yaml.safe_load_all(offline.render([deployment(**RUNTIME, replicas=1)], settings)))
    (shown,) = (one for one in objects if one["kind"] == "Pod")
    assert shown["spec"]["containers"][0]["image"] == "tensorflow/serving:2.19.1"
    assert shown["metadata"]["annotations"].keys() == {"muster.dev/models.config", "muster.dev/monitoring.config"}
