"""The command line."""

from __future__ import annotations

import logging

import pytest
import structlog
import yaml
from click.testing import CliRunner

import muster
from muster.__main__ import main

JOB = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: models}
---
apiVersion: muster.dev/v1alpha1
kind: TrainingJob
metadata: {name: digits}
spec: {replicas: 2, recipe: {name: "muster_worker.recipes.digits:Digits"}}
"""


@pytest.fixture(autouse=True)
def _logging_as_before():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def run(*words, stdin=None, **environment):
    return CliRunner(env={"KUBECONFIG": "/nowhere", **environment}).invoke(main, words, input=stdin)


def test_version():
    assert run("version").output == f"{muster.__version__}\n"


def test_plan_prints_what_would_be_made_and_passes_over_what_is_not_ours():
    result = run("plan", "--worker-image", "worker:1", "-", stdin=JOB)
    made = list(yaml.safe_load_all(result.output))
    assert [one["kind"] for one in made] == ["Service", "Pod", "Pod"]
    assert {one["spec"]["containers"][0]["image"] for one in made[1:]} == {"worker:1"}


SERVED = """
---
apiVersion: muster.dev/v1alpha1
kind: ModelDeployment
metadata: {name: digits}
spec: {replicas: 2, model: {fromTrainingJob: digits}}
"""


def test_plan_prints_what_serves_a_model_that_is_yet_to_be_trained():
    job = JOB.replace("{replicas: 2,", "{storage: {persistentVolumeClaim: {claimName: models}, path: mine},")
    made = list(yaml.safe_load_all(run("plan", "-", stdin=job + SERVED).output))
    assert [one["kind"] for one in made] == [
        "Service", "Pod", "Service", "ControllerRevision", "PodDisruptionBudget", "Pod", "Pod",
    ]  # fmt: skip
    mounts = {one["name"]: one for one in made[-1]["spec"]["containers"][0]["volumeMounts"]}
    assert mounts["storage"]["subPath"] == "mine/model"


def test_plan_says_of_what_nothing_is_made_and_why():
    job = JOB.replace("{replicas: 2,", "{storage: {ephemeral: {size: 1Gi}},")
    result = run("plan", "-", stdin=job + SERVED)
    assert "# Nothing is made of ModelDeployment digits: spec.model.fromTrainingJob: the model of" in result.output
    assert [one["kind"] for one in yaml.safe_load_all(result.output) if one] == ["Service", "Pod"]


def test_plan_takes_what_kubectl_prints():
    """Several resources are one List, each with its status."""
    items = [one for one in yaml.safe_load_all(JOB + SERVED) if one]
    items[2]["spec"] |= {"replicas": 1, "model": {"uri": "s3://models/digits"}}
    items[2]["status"] = {"phase": "a later one", "attempt": 7}
    listed = yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": items})
    made = [one["metadata"]["name"] for one in yaml.safe_load_all(run("plan", "-", stdin=listed).output)]
    assert (made[:3], made[-1]) == (["digits-workers", "digits-0-1", "digits-1-1"], "digits-serve-0-1")


@pytest.mark.parametrize(
    ("stdin", "complaint"),
    [
        (SERVED.replace("ModelDeployment", "Model"), "kind: found Model, wanted TrainingJob or ModelDeployment"),
        (SERVED.replace("fromTrainingJob", "fromTraining"), "did you mean fromTrainingJob?"),
        ("kind: [", "is not YAML"),
        (b"kind: \xff", "is not YAML"),
        ("kind: Pod", "no resource of muster.dev"),
        (JOB.replace("replicas: 2", "replicas: none"), "spec.replicas"),
        ("{apiVersion: muster.dev/v1alpha1, kind: TrainingJob, metadata: }", "metadata.name is missing"),
        ("{apiVersion: muster.dev/v1alpha1, kind: TrainingJob, metadata: a}", "metadata: found 'a'"),
        (
            SERVED + "---\n{apiVersion: muster.dev/v1alpha1, kind: TrainingJob, metadata: {name: digits}}",
            "spec is missing",
        ),
    ],
)
def test_plan_says_what_is_wrong_with_a_file(stdin, complaint):
    result = run("plan", "-", stdin=stdin)
    assert result.exit_code == 1
    assert complaint in result.output
    assert "Traceback" not in result.output


def test_crds_are_printed_or_written(tmp_path):
    printed = list(yaml.safe_load_all(run("crds").output))
    assert [one["metadata"]["name"] for one in printed] == ["trainingjobs.muster.dev", "modeldeployments.muster.dev"]
    assert run("crds", "--output", str(tmp_path)).exit_code == 0
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"muster.dev_trainingjobs.yaml", "muster.dev_modeldeployments.yaml"}


def test_run_without_a_cluster_says_what_is_missing():
    result = run("run", "--http-port", "0")
    assert result.exit_code == 1
    assert "KUBECONFIG" in result.output


@pytest.mark.parametrize(
    "words",
    [
        ("--log-level", "loud"),
        ("--http-port", "99999"),
        ("--log-format", "xml"),
        ("--resync-seconds", "0"),
    ],
)
def test_run_refuses_what_it_does_not_know(words):
    assert run("run", *words).exit_code == 2


def test_every_flag_of_run_has_its_environment_variable():
    names = {parameter.envvar for parameter in main.commands["run"].params if parameter.envvar}
    assert names == {
        "MUSTER_WORKER_IMAGE",
        "MUSTER_WORKER_IMAGE_PULL_POLICY",
        "MUSTER_TORCHSERVE_IMAGE",
        "MUSTER_TENSORFLOW_SERVING_IMAGE",
        "MUSTER_MODEL_CACHE",
        "MUSTER_LOG_LEVEL",
        "MUSTER_LOG_FORMAT",
        "MUSTER_LEADER_ELECTION",
        "MUSTER_LEASE_NAME",
        "MUSTER_LEASE_NAMESPACE",
        "MUSTER_HTTP_PORT",
        "MUSTER_RESYNC_SECONDS",
    }
