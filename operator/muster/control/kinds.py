"""Which kinds are controlled, by which planner, and what is watched for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from muster.client import FLAVORS, HTTP_ROUTES, NODES, PODS, SERVICES, WORKLOADS, Kind
from muster.plan.model import Manifest, Observed, Plan, Settings

Planner: TypeAlias = Callable[[Observed, Settings, float], Plan]

GROUP = "muster.dev"
TRAINING_JOBS = Kind(GROUP, "v1alpha1", "trainingjobs", "TrainingJob")
MODEL_DEPLOYMENTS = Kind(GROUP, "v1alpha1", "modeldeployments", "ModelDeployment")

OURS, OTHERS = "app.kubernetes.io/managed-by=muster", "app.kubernetes.io/managed-by!=muster"
"""Selects what Muster makes, and what it does not."""


class Key(NamedTuple):
    """One resource under control."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Watched:
    """A kind to watch, and the labels that the API server is to select by."""

    kind: Kind
    label: str = ""


@dataclass(frozen=True, slots=True)
class Controlled:
    """A kind of resource under control, and the kinds that are made for it beside pods and services.

    `names` tells which others under control, by kind and name in the same namespace, one needs to know of. `sees`: what
    Kubernetes makes of what is made for it.
    """

    kind: Kind
    planner: Planner
    names: Callable[[Manifest], tuple[tuple[str, str], ...]] = lambda _: ()
    makes: tuple[Kind, ...] = ()
    sees: tuple[Watched, ...] = ()


FOREIGN = {
    one.kind.kind: one
    for one in (
        Watched(WORKLOADS, "muster.dev/training-job"),
        Watched(FLAVORS),
        Watched(HTTP_ROUTES, "muster.dev/model-deployment"),
    )
}
"""Kinds that others define, by name: watched only where the cluster has them."""


def watched(controlled: Iterable[Controlled]) -> tuple[Watched, ...]:
    """All kinds to watch for these."""
    own = tuple(Watched(one.kind) for one in controlled)
    made = dict.fromkeys((PODS, SERVICES, *(kind for one in controlled for kind in one.makes)))
    seen = dict.fromkeys(other for one in controlled for other in one.sees)
    return (*own, *(Watched(kind, OURS) for kind in made), *seen, Watched(NODES))
