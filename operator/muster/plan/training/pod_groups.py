"""Gangs that another scheduler places: `spec.scheduling.gang: coscheduling` and `volcano`.

The scheduler is told of the gang by a PodGroup, and by what the pods bear so that they belong to it. It is there
before the pods, and as nothing of it ever changes, nobody looks at it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muster.plan.model import Reference
from muster.plan.ownership import owner
from muster.plan.training import identity, servers

if TYPE_CHECKING:
    from muster.api import TrainingJob
    from muster.plan.model import Manifest


@dataclass(frozen=True, slots=True)
class Scheduler:
    """One that knows gangs. `bearing` and `key` are where in its metadata a pod names its group."""

    name: str
    group: str
    version: str
    bearing: str
    key: str
    remedy: str

    def reference(self) -> Reference:
        return Reference("CustomResourceDefinition", f"podgroups.{self.group}", "spec.scheduling.gang", self.remedy)


SCHEDULERS = {
    "coscheduling": Scheduler(
        name="scheduler-plugins-scheduler",
        group="scheduling.x-k8s.io",
        version="v1alpha1",
        bearing="labels",
        key="scheduling.x-k8s.io/pod-group",
        remedy="install the scheduler plugin Coscheduling",
    ),
    "volcano": Scheduler(
        name="volcano",
        group="scheduling.volcano.sh",
        version="v1beta1",
        bearing="annotations",
        key="scheduling.k8s.io/group-name",
        remedy="install Volcano",
    ),
}


def references(job: TrainingJob) -> tuple[Reference, ...]:
    """Return what the cluster must know before a PodGroup can be made."""
    known = _of(job)
    return () if known is None else (known.reference(),)


def scheduler(job: TrainingJob) -> str | None:
    """Return the name of the scheduler that places the gang; None where no other than the cluster's own does."""
    known = _of(job)
    if known is None:
        return None
    return str(job.spec.template.get("spec", {}).get("schedulerName") or known.name)


def membership(job: TrainingJob) -> dict[str, dict[str, str]]:
    """Return the metadata by which a pod belongs to the group."""
    known = _of(job)
    return {} if known is None else {known.bearing: {known.key: identity.group_name(job)}}


def build_group(job: TrainingJob) -> tuple[Manifest, ...]:
    """Return the PodGroup, if there is to be one."""
    known = _of(job)
    if known is None:
        return ()
    spec: dict[str, Any] = {"minMember": servers.fewest(job)}
    # Coscheduling goes by the priority of the pods; its PodGroup has no field for it.
    if job.spec.scheduling.gang == "volcano" and job.spec.scheduling.priority_class_name:
        spec["priorityClassName"] = job.spec.scheduling.priority_class_name
    group = {
        "apiVersion": f"{known.group}/{known.version}",
        "kind": "PodGroup",
        "metadata": {
            "name": identity.group_name(job),
            "namespace": job.metadata.namespace,
            "labels": identity.labels(job),
            "ownerReferences": [owner(job)],
        },
        "spec": spec,
    }
    return (group,)


def _of(job: TrainingJob) -> Scheduler | None:
    return SCHEDULERS.get(job.spec.scheduling.gang)
