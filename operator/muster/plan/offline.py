"""What would be made of a manifest, without a cluster: `muster plan FILE`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import yaml

from muster.api import ModelDeployment, TrainingJob
from muster.api.base import unreported
from muster.plan import trained_model
from muster.plan.model import Admission, Observed
from muster.plan.serving import planner as serving
from muster.plan.training import pod_groups, pods, servers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from muster.plan.model import Manifest, Plan, Settings

NO_CLUSTER = {"uid": "00000000-0000-0000-0000-000000000000", "namespace": "default", "generation": 1}
NO_CHECKSUM = "0" * 64
"""Of a model that its training job has yet to make."""
UNKNOWN_STORAGE = {"persistentVolumeClaim": {"claimName": "of-the-training-job"}}


class UnknownKindError(Exception):
    """A document of Muster's group that is none of its resources."""


def render(documents: Iterable[Manifest], settings: Settings) -> str:
    """Return the YAML of all objects that are made at first for these resources; a comment for one that has to wait.

    A model that a TrainingJob has yet to make is taken to be where that job, if it is among the documents, writes it.

    Raises:
        pydantic.ValidationError: a document that the API server would refuse.
        UnknownKindError: a document of another kind.

    """
    resources = [_on_no_cluster(one) for one in documents]
    accepted = [_accepted(one) for one in resources]  # all of them: one may be the job that another names
    made = (_objects(one, resource, resources, settings) for one, resource in zip(accepted, resources, strict=True))
    return "---\n".join(
        objects if isinstance(objects, str) else yaml.safe_dump_all(objects, sort_keys=False) for objects in made
    )


def each(documents: Iterable[Any]) -> Iterator[Any]:
    """Yield them, and what is in lists of them: as `kubectl get -o yaml` prints several."""
    for one in documents:
        items = one.get("items") if isinstance(one, dict) and str(one.get("kind")).endswith("List") else None
        if isinstance(items, list):
            yield from each(items)
        else:
            yield one


def _on_no_cluster(document: Manifest) -> Manifest:
    """Return it as it is applied: how it does on a cluster that it was read from says nothing of what is made first."""
    metadata, wanted = document.get("metadata") or {}, unreported(document)
    return {**wanted, "metadata": NO_CLUSTER | metadata} if isinstance(metadata, dict) else wanted


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
) -> list[Manifest] | str:
    if isinstance(accepted, TrainingJob):
        return _of_job(accepted, settings)
    return _of_deployment(accepted, resource, among, settings)


def _of_job(job: TrainingJob, settings: Settings) -> list[Manifest]:
    workers = (pods.build_pod(job, settings, rank, attempt=1) for rank in range(servers.size(job)))
    return [pods.build_service(job), *pod_groups.build_group(job), *workers]


def _of_deployment(
    deployment: ModelDeployment, resource: Manifest, among: Iterable[Manifest], settings: Settings
) -> list[Manifest] | str:
    wanted = deployment.spec.model
    named = {}
    if wanted.from_training_job is not None:
        job = _trained(wanted.from_training_job, wanted.sha256 or NO_CHECKSUM, among)
        named[trained_model.KIND, wanted.from_training_job] = job
    room = Admission(granted=True, reason="Admitted", message="there is room for all", pods=sys.maxsize)
    made = serving.plan(Observed(resource, named=named, admission=room), settings, now=0.0)
    objects = [*made.applies, *made.besides, *made.creates]
    return objects or _waits(deployment, made)


def _waits(deployment: ModelDeployment, made: Plan) -> str:
    assert made.status is not None, "of one that nothing was said of yet"
    return f"# Nothing is made of ModelDeployment {deployment.metadata.name}: {made.status['message']}\n"


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
