"""Which kinds are controlled, by which planner, and what is watched for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from muster.client import FLAVORS, NODES, PODS, SERVICES, WORKLOADS, Kind
from muster.plan.model import Manifest, Observed, Plan, Settings

Planner: TypeAlias = Callable[[Observed, Settings, float], Plan]

GROUP = "muster.dev"
TRAINING_JOBS = Kind(GROUP, "v1alpha1", "trainingjobs", "TrainingJob")


class Key(NamedTuple):
    """One resource under control."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Controlled:
    """A kind of resource under control. What is made for one bears `label`: only that is watched.

    `names` tells which others under control, by kind and name in the same namespace, one needs to know of.
    """

    kind: Kind
    planner: Planner
    label: str
    names: Callable[[Manifest], tuple[tuple[str, str], ...]] = lambda _: ()


@dataclass(frozen=True, slots=True)
class Watched:
    """A kind to watch, and the label that the API server is to select by."""

    kind: Kind
    label: str = ""


FOREIGN = {one.kind.kind: one for one in (Watched(WORKLOADS, "muster.dev/training-job"), Watched(FLAVORS))}
"""Kinds that others define, by name: watched only where the cluster has them."""


def watched(controlled: tuple[Controlled, ...]) -> tuple[Watched, ...]:
    """All kinds to watch for these."""
    if len({one.label for one in controlled}) > 1:
        raise ValueError("one watch of pods can select by one label only: give all controlled kinds the same")
    label = controlled[0].label
    own = tuple(Watched(one.kind) for one in controlled)
    return (*own, Watched(PODS, label), Watched(SERVICES, label), Watched(NODES))
