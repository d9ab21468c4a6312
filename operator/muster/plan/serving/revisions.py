"""Revisions: everything that shapes the pods, kept in a ControllerRevision for as long as a group may need it.

A revision is made of what the spec says and of the model that was found for it, and has a name made of both. The image
is kept beside them: an operator that would choose another one changes nothing of what runs.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muster.api import ModelDeploymentSpec
from muster.plan.model import Delete
from muster.plan.ownership import owner
from muster.plan.serving import identity

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from muster.api import ModelDeployment
    from muster.plan.model import Manifest, Settings

_SHAPING = {"model", "runtime", "group", "resources", "template", "batching", "compression", "explain", "spread"}
_OPTIONAL = {"spread"}
"""Blocks that say something even where they hold defaults alone: to leave them out is another wish."""
_SHAPING_OF_ROLLOUT = {"restart", "drain_seconds"}


@dataclass(frozen=True, slots=True)
class Revision:
    """`number` counts up with each that is made. `shape`: what of the spec shapes pods; `model`: as `status.model`.

    `cache`: the node's directory where a model that is fetched is kept; empty: nowhere.
    """

    name: str
    number: int
    uid: str
    shape: Mapping[str, Any]
    model: Mapping[str, Any]
    image: str
    pull_policy: str
    cache: str = ""

    @property
    def size(self) -> int:
        """How many pods a group of it has."""
        return int(self.shape.get("group", {}).get("size", 1))

    @property
    def tells(self) -> bool:
        """Whether its pods can be asked how they are."""
        return self.shape.get("runtime") in {None, "torch", "torchserve"}

    @property
    def spec(self) -> ModelDeploymentSpec:
        return ModelDeploymentSpec.model_validate(self.shape)


def shape(deployment: ModelDeployment) -> dict[str, Any]:
    """Return what of the spec shapes pods. Defaults are left out: a version that knows more of them changes nothing."""
    chosen: dict[str, Any] = dict.fromkeys(_SHAPING, True)
    chosen["rollout"] = _SHAPING_OF_ROLLOUT
    said = deployment.spec.model_dump(
        mode="json", by_alias=True, include=chosen, exclude_defaults=True, exclude_none=True
    )
    return {name: value for name, value in said.items() if value != {} or name in _OPTIONAL}


def known(manifests: Iterable[Manifest]) -> dict[str, Revision]:
    """Return the deployment's revisions by name, the oldest first."""
    found = (_revision(manifest) for manifest in sorted(manifests, key=lambda one: int(one["revision"])))
    return {revision.name: revision for revision in found}


def like(wanted: Mapping[str, Any], among: Mapping[str, Revision]) -> Revision | None:
    """Return the newest revision of this shape: it stays with the model that was found for it."""
    return next((one for one in reversed(list(among.values())) if one.shape == wanted), None)


def new(
    deployment: ModelDeployment, model: Mapping[str, Any], settings: Settings, among: Mapping[str, Revision]
) -> Revision:
    """Return the revision that the spec asks for now."""
    wanted = shape(deployment)
    canonical = json.dumps({"shape": wanted, "model": model}, sort_keys=True, separators=(",", ":"))
    return Revision(
        name=hashlib.sha256(canonical.encode()).hexdigest()[:8],
        number=max((one.number for one in among.values()), default=0) + 1,
        uid="",
        shape=wanted,
        model=model,
        image=image(deployment.spec.runtime, settings),
        pull_policy=settings.worker_image_pull_policy,
        cache=settings.model_cache if "uri" in model else "",
    )


def image(runtime: str, settings: Settings) -> str:
    """Return what pods of that runtime run, where the template names nothing else."""
    others = {"torchserve": settings.torchserve_image, "tensorflowServing": settings.tensorflow_serving_image}
    return others.get(runtime, settings.worker_image)


def build(deployment: ModelDeployment, revision: Revision) -> dict[str, Any]:
    """Return the ControllerRevision that keeps it."""
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": _object_name(deployment, revision.name),
            "namespace": deployment.metadata.namespace,
            "labels": identity.labels(deployment) | {identity.REVISION: revision.name},
            "ownerReferences": [owner(deployment)],
        },
        "revision": revision.number,
        "data": {
            "shape": dict(revision.shape),
            "model": dict(revision.model),
            "image": revision.image,
            "imagePullPolicy": revision.pull_policy,
            **({"cache": revision.cache} if revision.cache else {}),
        },
    }


def surplus(
    deployment: ModelDeployment, among: Mapping[str, Revision], used: Collection[str | None]
) -> tuple[Delete, ...]:
    """Return what to remove of revisions that nothing uses, beyond those that are kept for going back."""
    unused = [one for one in among.values() if one.name not in used]
    kept = deployment.spec.rollout.revision_history_limit
    return tuple(
        Delete("ControllerRevision", _object_name(deployment, one.name), one.uid)
        for one in unused[: max(0, len(unused) - kept)]
    )


def _object_name(deployment: ModelDeployment, name: str) -> str:
    return f"{deployment.metadata.name}-{name}"


def _revision(manifest: Manifest) -> Revision:
    data = manifest["data"]
    return Revision(
        name=manifest["metadata"]["labels"][identity.REVISION],
        number=int(manifest["revision"]),
        uid=manifest["metadata"]["uid"],
        shape=data["shape"],
        model=data["model"],
        image=data["image"],
        pull_policy=data["imagePullPolicy"],
        cache=data.get("cache", ""),
    )
