"""What would be made of a manifest, without a cluster: `muster plan FILE`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import yaml

from muster.api import ModelDeployment, TrainingJob
from muster.plan import trained_model
from muster.plan.model import Admission, Observed
from muster.plan.serving import planner as serving
from muster.plan.training import pod_groups, pods, servers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.plan.model import Manifest, Settings

NO_CLUSTER = {"uid": "00000000-0000-0000-0000-000000000000", "namespace": "default", "generation": 1}
NO_CHECKSUM = "0" * 64
"""Of a model that its training job has yet to make."""
UNKNOWN_STORAGE = {"persistentVolumeClaim": {"claimName": "of-the-training-job"}}


class UnknownKindError(Exception):
    """A document of Muster's group that is none of its resources."""


def render(documents: Iterable[Manifest], settings: Settings) -> str:
    """Return the YAML of all objects that are made at first for these resources.

    A model that a TrainingJob has yet to make is taken to be where that job, if it is among the documents, writes it.

    Raises:
        pydantic.ValidationError: a document that the API server would refuse.
        UnknownKindError: a document of another kind.

    """
    resources = [_on_no_cluster(one) for one in documents]
    accepted = [_accepted(one) for one in resources]  # all of them: one may be the job that another names
    return yaml.safe_dump_all(
        (
            made
            for one, resource in zip(accepted, resources, strict=True)
            for made in _objects(one, resource, resources, settings)
        ),
        sort_keys=False,
    )


def _on_no_cluster(document: Manifest) -> Manifest:
    metadata = document.get("metadata") or {}
    return {**document, "metadata": NO_CLUSTER | metadata} if isinstance(metadata, dict) else document


def _accepted(resource: Manifest) -> TrainingJob | ModelDeployment:
    match resource.get("kind"):
        case "TrainingJob":
            return TrainingJob.model_validate(resource)
        case "ModelDeployment":
            return ModelDeployment.model_validate(resource)
        case other:
            raise UnknownKindError(f"kind: found {other}, wanted TrainingJob or ModelDeployment")


def _objects(
    accepted: TrainingJob | ModelDeployment, resource: Manifest, among: Iterable[Manifest], settings: Settings
) -> list[Manifest]:
    if isinstance(accepted, TrainingJob):
        return _of_job(accepted, settings)
    return _of_deployment(accepted, resource, among, settings)


def _of_job(job: TrainingJob, settings: Settings) -> list[Manifest]:
    workers = (pods.build_pod(job, settings, rank, attempt=1) for rank in range(servers.size(job)))
    return [pods.build_service(job), *pod_groups.build_group(job), *workers]


def _of_deployment(
    deployment: ModelDeployment, resource: Manifest, among: Iterable[Manifest], settings: Settings
) -> list[Manifest]:
    wanted = deployment.spec.model
    named = {}
    if wanted.from_training_job is not None:
        job = _trained(wanted.from_training_job, wanted.sha256 or NO_CHECKSUM, among)
        named[trained_model.KIND, wanted.from_training_job] = job
    room = Admission(granted=True, reason="Admitted", message="there is room for all", pods=sys.maxsize)
    made = serving.plan(Observed(resource, named=named, admission=room), settings, now=0.0)
    return [*made.applies, *made.besides, *made.creates]


def _trained(name: str, sha256: str, among: Iterable[Manifest]) -> Manifest:
    """Return the job as it will be when it has succeeded."""
    is_it = (one for one in among if one.get("kind") == trained_model.KIND and one["metadata"].get("name") == name)
    job = next(is_it, None)
    storage = (job["spec"].get("storage") if job is not None else None) or UNKNOWN_STORAGE
    complete = {"conditions": [{"type": "Complete", "status": "True"}]}
    return {
        "metadata": {"name": name},
        "spec": {"storage": storage},
        "status": complete | {"model": {"path": "model", "sha256": sha256}},
    }
