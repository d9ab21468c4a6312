"""The models in Python: read from manifests, written into status, with sentences for what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from muster.api import TrainingJob, TrainingJobStatus
from muster.api.errors import explain
from muster.api.trainingjob_status import Progress

from .manifests import Malformed, malformed, manifest


def complaint(job: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as error:
        TrainingJob.model_validate(job)
    return explain(error.value)


def test_a_short_manifest_gets_all_defaults():
    spec = TrainingJob.model_validate(manifest()).spec
    assert (spec.replicas, spec.processes_per_worker, spec.backend) == (1, "auto", "auto")
    assert (spec.checkpoint.every_steps, spec.checkpoint.every_seconds, spec.checkpoint.keep) == (None, 60, 3)
    assert spec.checkpoint.asynchronous
    assert (spec.failure_policy.max_restarts, spec.failure_policy.permanent_exit_codes) == (6, (2,))
    assert (spec.scheduling.gang, spec.managed_by) == ("auto", "muster.dev/operator")
    assert (spec.template, spec.resources.limits, spec.storage) == ({}, {}, None)


def test_metadata_is_read_as_far_as_it_matters():
    job = manifest()
    job["metadata"] |= {"namespace": "research", "uid": "u", "generation": 3, "managedFields": [{}], "labels": None}
    metadata = TrainingJob.model_validate(job).metadata
    assert (metadata.name, metadata.namespace, metadata.uid, metadata.generation) == ("digits", "research", "u", 3)
    assert metadata.labels == {}


def test_amounts_are_strings_whatever_they_were_and_gpus_are_counted():
    limits = {"cpu": 2, "nvidia.com/gpu": 4, "nvidia.com/mig-1g.5gb": "2", "rdma/hca": 1}
    resources = TrainingJob.model_validate(manifest(resources={"limits": limits})).spec.resources
    assert resources.limits["cpu"] == "2"
    assert resources.gpus == 6


def test_the_template_stays_plain_json_without_the_nulls_of_known_fields():
    template = {
        "metadata": None,
        "spec": {
            "securityContext": None,
            "volumes": None,
            "ofTomorrow": [1, None],
            "containers": [{"name": "worker", "image": "mine", "env": [{"name": "A", "value": "1"}]}],
        },
    }
    assert TrainingJob.model_validate(manifest(template=template)).spec.template == {
        "spec": {
            "securityContext": None,
            "ofTomorrow": [1, None],
            "containers": [{"name": "worker", "image": "mine", "env": [{"name": "A", "value": "1"}]}],
        }
    }


def test_a_spec_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        TrainingJob.model_validate(manifest()).spec.replicas = 2  # type: ignore[misc]


def test_a_block_is_written_as_in_a_manifest():
    rate = {"initial": "0.1", "schedule": "plateau"}
    spec = TrainingJob.model_validate(manifest(optimisation={"learningRate": rate})).spec
    assert spec.optimisation is not None
    assert spec.optimisation.manifest() == {
        "learningRate": {**rate, "warmUpSteps": 0, "metric": "validationLoss", "factor": "0.5", "patience": 3},
        "gradientAccumulation": 1,
    }
    stopping = TrainingJob.model_validate(manifest(optimisation={"earlyStopping": {}})).spec.optimisation
    assert stopping is not None
    assert stopping.manifest()["earlyStopping"] == {"metric": "validationLoss", "patience": 3}


def test_a_status_is_written_without_what_is_not_known():
    status = TrainingJobStatus(phase="Running", replicas=0, progress=Progress(step=0, total_steps=10), metrics={})
    assert status.manifest() == {"phase": "Running", "replicas": 0, "progress": {"step": 0, "totalSteps": 10}}


def test_a_status_that_a_newer_operator_wrote_is_read():
    job = manifest() | {
        "status": {"phase": "Running", "ofTomorrow": {}, "restarts": [{"attempt": 1, "cause": "Flood"}]}
    }
    status = TrainingJob.model_validate(job).status
    assert status.phase == "Running"
    assert status.restarts[0].cause == "Flood"


@pytest.mark.parametrize("case", malformed(), ids=str)
def test_a_malformed_manifest_is_refused_in_a_sentence(case: Malformed):
    assert complaint(case.manifest) == case.model


@pytest.mark.parametrize(
    ("job", "sentence"),
    [
        (manifest() | {"metadata": {}}, "metadata.name is missing: write it"),
        ({"metadata": {"name": "digits"}}, "spec is missing: write it"),
        (manifest() | {"kind": "Job"}, "kind: found 'Job', wanted 'TrainingJob'"),
        (manifest(checkpoint=5), "spec.checkpoint: found 5, wanted an object"),
        (manifest(suspend="no"), "spec.suspend: found 'no', wanted true or false"),
        (manifest(zzz=1), "spec.zzz: there is no such field: leave it out"),
        (manifest(max_restarts=1), "spec.max_restarts: there is no such field: leave it out"),
        (
            manifest(template={"metadata": {"label": {}}}),
            "spec.template.metadata.label: there is no such field: did you mean labels?",
        ),
        (
            manifest(resources={"limits": {"cpu": 0.5}}),
            "spec.resources.limits.cpu: wanted an integer or a string",
        ),
        (
            manifest(source={"configMap": "x" * 300}),
            f"spec.source.configMap: found '{'x' * 59}..., wanted at most 253 characters",
        ),
        (
            manifest(replicas=0, backend="mpi"),
            (
                "spec.replicas: found 0, wanted at least 1;"
                " spec.backend: found 'mpi', wanted 'auto', 'nccl', 'gloo' or 'xla'"
            ),
        ),
        (
            manifest(strategy={"parameterServers": 1}),
            (
                "spec.strategy.type: parameterServers, staleness and gradientCompression are for type parameterServer:"
                " write it, or leave them out"
            ),
        ),
        (
            manifest(scheduling={"gang": "none", "topologyKey": "rack"}),
            (
                "spec.scheduling.topologyKey: the domain is chosen when Muster admits the workers together:"
                " write gang auto and no queueName, or leave it out"
            ),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_sentence_names_the_field_what_was_found_and_what_is_wanted(job: dict[str, Any], sentence: str):
    assert complaint(job) == sentence
