"""What would be made of a manifest, without a cluster: `muster plan FILE`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from muster.api import TrainingJob
from muster.plan.training import pod_groups, pods

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.plan.model import Manifest, Settings

NO_CLUSTER = {"uid": "00000000-0000-0000-0000-000000000000", "namespace": "default", "generation": 1}


def render(documents: Iterable[Manifest], settings: Settings) -> str:
    """Return the YAML of all objects that the first attempt of these TrainingJobs consists of.

    Raises:
        pydantic.ValidationError: a document that the API server would refuse.

    """
    return yaml.safe_dump_all(
        (made for document in documents for made in _objects(document, settings)), sort_keys=False
    )


def _objects(document: Manifest, settings: Settings) -> list[Manifest]:
    resource: dict[str, Any] = {**document, "metadata": NO_CLUSTER | document.get("metadata", {})}
    job = TrainingJob.model_validate(resource)
    workers = (pods.build_pod(job, settings, rank, attempt=1) for rank in range(job.spec.replicas))
    return [pods.build_service(job), *pod_groups.build_group(job), *workers]
