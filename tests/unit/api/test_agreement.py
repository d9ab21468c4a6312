"""Schema and model agree: what the real API server takes the models take, with the same defaults, and nothing else."""

from __future__ import annotations

import json
import os
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import HealthCheck, event, example, given, settings
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from pydantic import ValidationError

from muster.api import ModelDeployment, TrainingJob
from muster.api.crd import MODEL_DEPLOYMENT, TRAINING_JOB, Resource, definition
from muster.api.errors import explain

from .manifests import Malformed, deployment, malformed, manifest
from .specs import GOOD, GOOD_DEPLOYMENT, Spec, changed

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
GENERATED = settings(deadline=None, suppress_health_check=list(HealthCheck), database=None)

pytestmark = pytest.mark.cluster


class Server:
    """The real API server. Nothing stays there but what `create(..., dry_run=False)` made, until `delete`."""

    def __init__(self, api: client.ApiClient, plural: str = TRAINING_JOB.plural) -> None:
        self._jobs = client.CustomObjectsApi(api)
        self._where = {"group": "muster.dev", "version": "v1alpha1", "namespace": "default", "plural": plural}

    def create(self, job: dict[str, Any], *, dry_run: bool = True) -> dict[str, Any]:
        """Return the job with defaults filled in; raises ApiException where it is refused."""
        options = {"dry_run": "All"} if dry_run else {}
        return dict(
            self._jobs.create_namespaced_custom_object(**self._where, body=job, field_validation="Strict", **options)
        )

    def patch(self, name: str, spec: Spec) -> dict[str, Any]:
        return dict(self._jobs.patch_namespaced_custom_object(**self._where, name=name, body={"spec": spec}))

    def delete(self, name: str) -> None:
        self._jobs.delete_namespaced_custom_object(**self._where, name=name)


@pytest.fixture(scope="module")
def api() -> Iterator[client.ApiClient]:
    path = os.environ.get("KUBECONFIG") or str(ROOT / ".cluster" / "kubeconfig")
    assert Path(path).is_file(), f"no cluster: {path} does not exist; `make cluster` first"
    with config.new_client_from_config(path) as connected:
        yield connected


@pytest.fixture(scope="module")
def server(api: client.ApiClient) -> Iterator[Server]:
    yield from _with_crd(api, TRAINING_JOB, manifest())


@pytest.fixture(scope="module")
def deployments(api: client.ApiClient) -> Iterator[Server]:
    yield from _with_crd(api, MODEL_DEPLOYMENT, deployment(model={"fromTrainingJob": "digits"}))


def _with_crd(api: client.ApiClient, resource: Resource, least: dict[str, Any]) -> Iterator[Server]:
    """The chart may have installed the CRD already; then it has to be this one."""
    definitions = client.CustomObjectsApi(api)
    where = {"group": "apiextensions.k8s.io", "version": "v1", "plural": "customresourcedefinitions"}
    name, wanted, server = f"{resource.plural}.muster.dev", definition(resource), Server(api, resource.plural)
    present = {crd["metadata"]["name"]: crd for crd in definitions.list_cluster_custom_object(**where)["items"]}
    if name not in present:
        definitions.create_cluster_custom_object(**where, body=wanted)
        _until_served(server, least)
        yield server
        definitions.delete_cluster_custom_object(**where, name=name)
        return
    schema = present[name]["spec"]["versions"][0]["schema"]
    assert schema == wanted["spec"]["versions"][0]["schema"], "the cluster has an old CRD"
    yield server


def _until_served(server: Server, least: dict[str, Any]) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            server.create(least)
        except ApiException as error:
            if error.status != 404:
                raise
            time.sleep(0.1)
        else:
            return
    pytest.fail("the API server did not serve it within 30 s")


def message(error: ApiException) -> str:
    return str(json.loads(error.body)["message"])


def model_answer(resource: dict[str, Any]) -> tuple[TrainingJob | ModelDeployment | None, str]:
    model = TrainingJob if resource["kind"] == "TrainingJob" else ModelDeployment
    try:
        return model.model_validate(resource), ""
    except ValidationError as error:
        return None, explain(error)


def server_answer(server: Server, job: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    try:
        return server.create(job), ""
    except ApiException as error:
        if error.status not in {400, 422}:
            raise
        return None, message(error)


@given(spec=GOOD)
@settings(GENERATED, max_examples=100)
def test_what_is_well_formed_is_taken_by_both_with_the_same_defaults(server: Server, spec: Spec):
    made = server.create(manifest(**spec))
    assert TrainingJob.model_validate(made).spec == TrainingJob.model_validate(manifest(**spec)).spec


@given(spec=changed())
@settings(GENERATED, max_examples=400)
@example(spec={"recipe": {"name": "a:B"}, "replicas": None})
@example(spec={"recipe": {"name": "a:B"}, "replicas": 2.0})
@example(spec={"recipe": {"name": "a:B"}, "resources": {"limits": {"cpu": None}}})
@example(spec={"recipe": {"name": "a:B"}, "failurePolicy": {"permanentExitCodes": [None]}})
def test_what_may_be_wrong_is_judged_alike(server: Server, spec: Spec):
    made, refusal = server_answer(server, manifest(**spec))
    job, complaint = model_answer(manifest(**spec))
    event("refused" if refusal else "taken")
    assert (made is None) == (job is None), f"server: {refusal or 'takes it'}; model: {complaint or 'takes it'}"
    if made is not None and job is not None:
        assert TrainingJob.model_validate(made).spec == job.spec


@given(spec=GOOD_DEPLOYMENT)
@settings(GENERATED, max_examples=60)
def test_a_well_formed_deployment_is_taken_by_both_with_the_same_defaults(deployments: Server, spec: Spec):
    made = deployments.create(deployment(**spec))
    assert ModelDeployment.model_validate(made).spec == ModelDeployment.model_validate(deployment(**spec)).spec


CUSTOM = {
    "model": {"fromTrainingJob": "a"},
    "runtime": "custom",
    "template": {"spec": {"containers": [{"name": "worker", "image": "mine:1"}]}},
}
EXPLAINED = {"model": {"fromTrainingJob": "a"}, "explain": {"method": "integratedGradients"}}
COMPRESSED = {"model": {"fromTrainingJob": "a"}, "compression": [{"quantize": {"bits": 8}}]}
TENSORFLOW = {
    "model": {"persistentVolumeClaim": {"claimName": "models", "path": "linear/1"}},
    "runtime": "tensorflowServing",
}


@given(spec=changed("ModelDeployment"))
@settings(GENERATED, max_examples=200)
@example(spec={"model": {"fromTrainingJob": "a"}, "rollout": {"maxSurge": 0}})
@example(spec={"model": {"fromTrainingJob": "a"}, "rollout": {"maxSurge": "0%", "maxUnavailable": 0}})
@example(spec={"model": {"fromTrainingJob": "a", "uri": "b"}})
@example(spec={"model": {"fromTrainingJob": "a"}, "service": {"port": 9000}})
@example(spec=EXPLAINED)
@example(spec=EXPLAINED | {"explain": {}})
@example(spec=EXPLAINED | {"explain": {"method": "gradients"}})
@example(spec=EXPLAINED | {"explain": {"method": "saliency", "baseline": "zeros"}})
@example(spec=EXPLAINED | {"explain": {"method": "saliency", "baseline": "0.5"}})
@example(spec=EXPLAINED | {"explain": {"method": "occlusion", "baseline": "-0.5"}})
@example(spec=EXPLAINED | {"explain": {"method": "occlusion", "baseline": "mean"}})
@example(spec=EXPLAINED | {"runtime": "torchserve"})
@example(spec=EXPLAINED | {"group": {"size": 1}})
@example(spec=EXPLAINED | {"group": {"size": 2}})
@example(spec=EXPLAINED | {"group": {"parallelism": {"data": 1, "tensor": 1}}})
@example(spec=EXPLAINED | {"group": {"parallelism": {"tensor": 2}}})
@example(spec={"model": {"fromTrainingJob": "a"}, "service": {"port": 81.0}})
@example(spec={"model": {"fromTrainingJob": "a"}, "autoscaling": {"maxReplicas": 4.0, "target": "50"}})
@example(spec={"model": {"fromTrainingJob": "a"}, "autoscaling": {"maxReplicas": 4, "target": "0.0"}})
@example(spec={"model": {"fromTrainingJob": "a"}, "autoscaling": {"maxReplicas": 4, "target": "0.5", "metric": "cpu"}})
@example(spec={"model": {"fromTrainingJob": "a"}, "autoscaling": {"maxReplicas": 4, "target": "0.5"}})
@example(spec=COMPRESSED)
@example(spec=COMPRESSED | {"compression": []})
@example(spec=COMPRESSED | {"compression": [{"quantize": {"bits": 6}}]})
@example(spec=COMPRESSED | {"model": {"uri": "b"}})
@example(spec=COMPRESSED | {"runtime": "torchserve"})
@example(spec=COMPRESSED | {"runtime": "torchserve", "compression": []})
@example(spec=TENSORFLOW | {"compression": COMPRESSED["compression"]})
@example(spec={"model": {"fromTrainingJob": "a"}, "runtime": "torchserve"})
@example(spec={"model": {"fromTrainingJob": "a"}, "runtime": "torchserve", "group": {"size": 2}})
@example(spec={"model": {"fromTrainingJob": "a"}, "runtime": "torchserve", "canary": {"analysis": {}}})
@example(spec={"model": {"fromTrainingJob": "a"}, "runtime": "custom"})
@example(spec=CUSTOM)
@example(spec=CUSTOM | {"template": {"spec": {"containers": [{"name": "other"}]}}})
@example(spec=CUSTOM | {"group": {"size": 2}})
@example(spec=CUSTOM | {"group": {"parallelism": {}}})
@example(spec=CUSTOM | {"batching": {"maxBatchSize": 2}})
@example(spec=CUSTOM | {"batching": {"maxDelayMilliseconds": 1}})
@example(spec=CUSTOM | {"canary": {"analysis": {}}})
@example(spec=CUSTOM | {"explain": {"method": "saliency"}})
@example(spec=TENSORFLOW | {"batching": {"maxBatchSize": 2}})
@example(spec=TENSORFLOW | {"model": {"fromTrainingJob": "a"}})
@example(spec=TENSORFLOW | {"model": {"uri": "b"}})
@example(spec=TENSORFLOW | {"model": TENSORFLOW["model"] | {"sha256": "a" * 64}})
@example(spec=TENSORFLOW | {"group": {"size": 2}})
@example(spec=TENSORFLOW | {"canary": {"analysis": {}}})
@example(spec=TENSORFLOW | {"explain": {"method": "saliency"}})
def test_a_deployment_that_may_be_wrong_is_judged_alike(deployments: Server, spec: Spec):
    made, refusal = server_answer(deployments, deployment(**spec))
    read, complaint = model_answer(deployment(**spec))
    event("refused" if refusal else "taken")
    assert (made is None) == (read is None), f"server: {refusal or 'takes it'}; model: {complaint or 'takes it'}"
    if made is not None and read is not None:
        assert ModelDeployment.model_validate(made).spec == read.spec


@pytest.mark.parametrize("case", malformed(), ids=str)
def test_a_malformed_manifest_is_refused_with_the_field_and_what_to_write(server: Server, case: Malformed):
    made, refusal = server_answer(server, case.manifest)
    assert made is None
    assert case.field in refusal
    assert case.sentence in refusal


CHANGES = [
    ("replicas", {"replicas": 2}),
    ("processesPerWorker", {"processesPerWorker": 2}),
    ("backend", {"backend": "gloo"}),
    ("recipe", {"recipe": {"config": {"epochs": 3}}}),
    ("source", {"source": {"configMap": "code"}}),
    ("strategy", {"strategy": {"type": "ddp"}}),
    ("optimisation", {"optimisation": {"gradientAccumulation": 2}}),
    ("resources", {"resources": {"limits": {"cpu": "3"}}}),
    ("template", {"template": {"spec": {"nodeSelector": None, "tolerations": []}}}),
    ("template", {"template": {"spec": {"nodeSelector": {"disk": "ssd"}}}}),
    ("template", {"template": {"spec": {"containers": [{"name": "worker", "image": "other"}]}}}),
    ("storage", {"storage": None}),
    ("checkpoint", {"checkpoint": {"keep": 4}}),
    ("scheduling", {"scheduling": {"gang": "none"}}),
    ("managedBy", {"managedBy": "kueue.x-k8s.io/multikueue"}),
]


@pytest.fixture
def existing(server: Server) -> Iterator[str]:
    """A job that stays until the test ends and that nobody looks after."""
    name = f"agreement-{uuid.uuid4().hex[:8]}"
    template = {"spec": {"nodeSelector": {"disk": "nvme"}, "containers": [{"name": "worker", "image": "mine"}]}}
    spec: Spec = {
        "managedBy": "example.com/nobody",
        "resources": {"limits": {"cpu": "2"}},
        "template": template,
        "storage": {"persistentVolumeClaim": {"claimName": "models"}},
    }
    server.create(manifest(name, **spec), dry_run=False)
    yield name
    server.delete(name)


@pytest.mark.parametrize(("field", "change"), CHANGES, ids=[str(change) for _, change in CHANGES])
def test_a_job_stays_as_it_was_made(server: Server, existing: str, field: str, change: Spec):
    with pytest.raises(ApiException) as refused:
        server.patch(existing, change)
    assert f"spec.{field} cannot change once the job exists" in message(refused.value)
    assert "delete it and create another" in message(refused.value)


def test_the_failure_policy_may_change(server: Server, existing: str):
    changed_job = server.patch(existing, {"failurePolicy": {"maxRestarts": 9, "permanentExitCodes": [2]}})
    assert changed_job["spec"]["failurePolicy"] == {
        "maxRestarts": 9,
        "permanentExitCodes": [2],
        "nodeLostSeconds": 0,
    }


def test_the_size_of_an_elastic_job_may_change_within_its_bounds(server: Server):
    name = f"agreement-{uuid.uuid4().hex[:8]}"
    spec: Spec = {"managedBy": "example.com/nobody", "replicas": 3, "elastic": {"minReplicas": 2, "maxReplicas": 5}}
    server.create(manifest(name, **spec), dry_run=False)
    try:
        assert server.patch(name, {"replicas": 5})["spec"]["replicas"] == 5
        for outside in (1, 6):
            with pytest.raises(ApiException) as refused:
                server.patch(name, {"replicas": outside})
            assert "must not be below spec.elastic.minReplicas nor above" in message(refused.value)
        with pytest.raises(ApiException) as refused:
            server.patch(name, {"elastic": {"maxReplicas": 6}})
        assert "spec.elastic cannot change once the job exists" in message(refused.value)
    finally:
        server.delete(name)


@pytest.mark.parametrize(
    "change",
    [
        {"suspend": True},
        {"activeDeadlineSeconds": 60},
        {"ttlSecondsAfterFinished": 60},
        {"podCleanup": "All"},
    ],
    ids=str,
)
def test_whether_and_how_long_it_runs_may_change(server: Server, existing: str, change: Spec):
    assert change.items() <= server.patch(existing, change)["spec"].items()


def test_the_generated_file_is_what_the_server_was_asked(server: Server):
    written = yaml.safe_load((ROOT / "crds" / "muster.dev_trainingjobs.yaml").read_text(encoding="utf-8"))
    assert written == definition(TRAINING_JOB)
