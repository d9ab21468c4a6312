"""The objects that a job names and that must be there before its pods are made: pods without them only hang."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.plan import claims
from muster.plan.model import Reference
from muster.plan.training import kueue, pod_groups

if TYPE_CHECKING:
    from muster.api import TrainingJob


def references(job: TrainingJob) -> tuple[Reference, ...]:
    """Return them in the order of the spec."""
    spec = job.spec
    found = [*kueue.references(job), *pod_groups.references(job)]
    if spec.source is not None:
        found.append(Reference("ConfigMap", spec.source.config_map, "spec.source.configMap"))
    if spec.storage is not None and spec.storage.persistent_volume_claim is not None:
        claim = spec.storage.persistent_volume_claim.claim_name
        found.append(Reference("PersistentVolumeClaim", claim, "spec.storage.persistentVolumeClaim.claimName"))
    if spec.storage is not None and spec.storage.ephemeral is not None and spec.storage.ephemeral.storage_class_name:
        of = spec.storage.ephemeral.storage_class_name
        found.append(Reference("StorageClass", of, "spec.storage.ephemeral.storageClassName"))
    found += claims.references(spec.resources)
    if spec.scheduling.priority_class_name is not None:
        found.append(
            Reference("PriorityClass", spec.scheduling.priority_class_name, "spec.scheduling.priorityClassName")
        )
    return tuple(found)
