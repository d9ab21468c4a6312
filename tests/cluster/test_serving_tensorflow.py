"""runtime: tensorflowServing, by a STAND-IN for TensorFlow's model server: tests/cluster/tensorflow_serving/server.py.

No package registry has the real one. Where its image can be pulled, MUSTER_TENSORFLOW_SERVING_IMAGE names it, and the
last test runs it; that has never been done on the machines that test Muster.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.cluster import deployments
from tests.cluster.conftest import namespace
from tests.cluster.kube import ROOT, Kube, kubectl, local_cluster, wait_for
from tests.cluster.load import Load

if TYPE_CHECKING:
    from tests.cluster.conftest import Measure

STAND_IN = "localhost/muster-tensorflow-serving-stand-in:test"
REAL = os.environ.get("MUSTER_TENSORFLOW_SERVING_IMAGE", "")
MODELS = f"""
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: models}}
spec:
  accessModes: [ReadWriteMany]
  resources: {{requests: {{storage: 1Gi}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: exporter}}
spec:
  restartPolicy: Never
  securityContext: {{runAsUser: 0}}
  containers:
    - name: exporter
      image: {STAND_IN}
      imagePullPolicy: Never
      command: [sh, -ec, "cp -r /saved_models/linear /models && mkdir /models/empty"]
      volumeMounts: [{{name: models, mountPath: /models}}]
  volumes: [{{name: models, persistentVolumeClaim: {{claimName: models}}}}]
"""


@pytest.fixture(scope="module")
def stand_in() -> None:
    local_cluster("build-image", STAND_IN, "tests/cluster/tensorflow_serving", "--base", "python", limit=600)


@pytest.fixture(scope="module")
def exported(installed: None, stand_in: None) -> Iterator[Kube]:
    """A namespace with SavedModels on a claim: linear/1 says 2x + 1, linear/2 says 3x + 1."""
    local_cluster("load-image", STAND_IN, limit=600)
    with namespace() as kube:
        kube.apply(MODELS)
        kubectl(
            "wait", "-n", kube.namespace, "pod/exporter", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=90s"
        )
        yield kube


@pytest.fixture(scope="module")
def under_load(exported: Kube) -> Iterator[Load]:
    """Two groups that answer, and a pod that asks them all the time."""
    exported.apply(manifest("linear", STAND_IN, batching={"maxBatchSize": 8, "maxDelayMilliseconds": 2}))
    deployments.wait_until_done(exported, "linear")
    with Load.start(exported, "linear", "linear/1", "load_tensorflow.py", STAND_IN) as load:
        yield load


def manifest(name: str, image: str, version: str = "linear/1", **spec: Any) -> str:
    worker = {"name": "worker", "image": image, "imagePullPolicy": "Never" if image == STAND_IN else "IfNotPresent"}
    return yaml.safe_dump(
        deployments.manifest(
            name,
            model={"persistentVolumeClaim": {"claimName": "models", "path": version}},
            runtime="tensorflowServing",
            template={"spec": {"containers": [worker]}},
            resources={"requests": {"cpu": "100m", "memory": "512Mi"}},
            # Each pod stays that long, and five seconds more: it does not hear that it is to end.
            rollout={"drainSeconds": 6},
            **spec,
        )
    )


def test_every_configuration_is_read_by_the_real_messages(stand_in: None, tmp_path: Path):
    batching = {"maxBatchSize": 32, "maxDelayMilliseconds": 5}
    (tmp_path / "deployment.yaml").write_text(manifest("linear", STAND_IN, batching=batching))
    plan = [sys.executable, "-m", "muster", "plan", str(tmp_path / "deployment.yaml")]
    planned = subprocess.run(plan, check=True, capture_output=True, text=True).stdout
    pod = next(one for one in yaml.safe_load_all(planned) if one["kind"] == "Pod")
    assert read_by_the_real_messages(pod["metadata"]["annotations"]) == {
        "models.config": {
            "model_config_list": {
                "config": [{"name": "linear", "base_path": "/models/linear", "model_platform": "tensorflow"}]
            }
        },
        "monitoring.config": {"prometheus_config": {"enable": True}},
        "batching.config": {
            "max_batch_size": "32",
            "batch_timeout_micros": "5000",
            "max_enqueued_batches": "1000000",
        },
    }


def read_by_the_real_messages(annotations: dict[str, str]) -> dict[str, Any]:
    """Of each annotation of Muster's, what its message says. The checkout is what the image's container can see."""
    directory = ROOT / "build" / "test" / "tensorflow_serving"
    directory.mkdir(parents=True, exist_ok=True)
    texts = {name.removeprefix("muster.dev/"): text for name, text in annotations.items()}
    for name, text in texts.items():
        (directory / name).write_text(text)
    command = ["python3", "-m", "local_cluster", "run-in-image", STAND_IN, "--", "python3", "/src/configs.py"]
    said = subprocess.run(
        [*command, *(str(directory / name) for name in texts)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return dict(zip(texts, map(json.loads, said.stdout.splitlines()), strict=True))


@pytest.mark.long
def test_a_rolling_restart_fails_no_request_by_rest_or_grpc(load: Load, measure: Measure):
    kube, begun = load.kube, time.monotonic()
    before = deployments.pods(kube, "linear").keys()
    deployments.patch(kube, '{"rollout": {"restart": "now"}}', "linear")
    status = deployments.wait_until_done(kube, "linear")
    measure("rolling restart of 2 groups of the stand-in for TensorFlow Serving", time.monotonic() - begun, "0 failed")
    wait_for("the old pods are gone", lambda: not before & deployments.pods(kube, "linear").keys(), 40)
    load.go_on(100)
    assert load.failures() == []
    assert status["url"] == f"http://linear.{kube.namespace}.svc/v1/models/linear"
    assert "failovers" not in status


def test_what_it_was_told_has_reached_it(under_load: Load):
    kube = under_load.kube
    pod = next(iter(deployments.living(kube, "linear")))
    assert "{'maxBatchSize': '8', 'batchTimeoutMicros': '2000'" in kube.logs(pod)
    assert ask(kube, "linear", "linear")["model_version_status"][0]["state"] == "AVAILABLE"
    metrics = kubectl("get", "--raw", f"{proxy(kube, 'linear')}/monitoring/prometheus/metrics").stdout
    assert ':tensorflow:serving:request_count{model_name="linear",status="OK"}' in metrics


@pytest.mark.long
def test_a_directory_without_a_saved_model_is_rolled_back_and_fails_no_request(load: Load):
    kube = load.kube
    good = deployments.status(kube, "linear")["revision"]["current"]
    deployments.patch(kube, model("empty"), "linear")
    status = deployments.wait_for_phase(kube, "RolledBack", "linear", 120)
    assert "SavedModel" in status["message"], status["message"]
    wait_for("its pods are gone", lambda: deployments.revisions(kube, "linear") == {good}, 60)
    load.go_on(50)
    assert load.failures() == []


def test_another_version_is_rolled_out_and_back(exported: Kube):
    exported.apply(manifest("versions", STAND_IN, replicas=1))
    try:
        deployments.wait_until_done(exported, "versions")
        assert asked_within(exported, "versions") == ("1", [[3.0, 5.0]])
        deployments.patch(exported, model("linear/2"), "versions")
        deployments.wait_until_done(exported, "versions")
        assert asked_within(exported, "versions") == ("2", [[4.0, 7.0]])
        deployments.patch(exported, model("linear/1"), "versions")
        deployments.wait_until_done(exported, "versions")
        assert asked_within(exported, "versions") == ("1", [[3.0, 5.0]])
    finally:
        kubectl("delete", "modeldeployment", "versions", "-n", exported.namespace)


@pytest.mark.skipif(not REAL, reason="needs the real image: MUSTER_TENSORFLOW_SERVING_IMAGE=tensorflow/serving:2.19.1")
def test_the_real_model_server_serves_and_is_restarted_without_a_failed_request(exported: Kube):
    exported.apply(manifest("real", REAL, batching={"maxBatchSize": 8, "maxDelayMilliseconds": 2}))
    deployments.wait_until_done(exported, "real", 600)
    try:
        with Load.start(exported, "real", "linear/1", "load_tensorflow.py", STAND_IN) as load:
            before = deployments.pods(exported, "real").keys()
            deployments.patch(exported, '{"rollout": {"restart": "now"}}', "real")
            deployments.wait_until_done(exported, "real")
            wait_for("the old pods are gone", lambda: not before & deployments.pods(exported, "real").keys(), 40)
            load.go_on(100)
            assert load.failures() == []
            deployments.patch(exported, model("empty"), "real")
            status = deployments.wait_for_phase(exported, "RolledBack", "real", 180)
            assert "SavedModel" in status["message"], status["message"]
            assert load.failures() == []
    finally:
        kubectl("delete", "modeldeployment", "real", "-n", exported.namespace)


def model(path: str) -> str:
    return json.dumps({"model": {"persistentVolumeClaim": {"claimName": "models", "path": path}}})


def proxy(kube: Kube, name: str) -> str:
    """The API server's way to the Service."""
    return f"/api/v1/namespaces/{kube.namespace}/services/http:{name}:80/proxy"


def ask(kube: Kube, name: str, path: str) -> dict[str, Any]:
    return dict(json.loads(kubectl("get", "--raw", f"{proxy(kube, name)}/v1/models/{path}").stdout))


def asked_within(kube: Kube, name: str) -> tuple[str, list[list[float]]]:
    """Return version and answer for [1, 2], asked in a pod itself: the Service may lead to one that leaves."""
    program = f"""
import json, urllib.request
body, url = json.dumps({{"instances": [[1, 2]]}}).encode(), "http://localhost:8501/v1/models/{name}"
with urllib.request.urlopen(url + ":predict", body) as answer, urllib.request.urlopen(url + "/metadata") as metadata:
    print(json.dumps([json.load(metadata)["model_spec"]["version"], json.load(answer)["predictions"]]))
"""
    version, answer = json.loads(kube.run_in(next(iter(deployments.living(kube, name))), program))
    return version, answer
