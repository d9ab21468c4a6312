"""What a fake API server remembers: objects, versions, history, who applied which field."""

from __future__ import annotations

import copy
import itertools
import json
import re
import uuid
from dataclasses import dataclass, field
from typing import Any

STAMP = "2026-11-24T00:00:00Z"


@dataclass(frozen=True)
class Resource:
    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    status: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


RESOURCES = {
    one.plural: one
    for one in (
        Resource("", "v1", "pods", "Pod"),
        Resource("", "v1", "services", "Service"),
        Resource("", "v1", "nodes", "Node", namespaced=False),
        Resource("", "v1", "configmaps", "ConfigMap", status=False),
        Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
        Resource("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False, status=False),
        Resource("resource.k8s.io", "v1", "deviceclasses", "DeviceClass", namespaced=False, status=False),
        Resource("events.k8s.io", "v1", "events", "Event", status=False),
        Resource("coordination.k8s.io", "v1", "leases", "Lease", status=False),
        Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", status=False),
        # kopf looks for these two before it watches anything, though it never lists them here.
        Resource("", "v1", "namespaces", "Namespace", namespaced=False),
        Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition"),
        Resource("muster.dev", "v1alpha1", "trainingjobs", "TrainingJob"),
        Resource("muster.dev", "v1alpha1", "modeldeployments", "ModelDeployment"),
        Resource("apps", "v1", "controllerrevisions", "ControllerRevision", status=False),
        Resource("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler"),
        Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget"),
        Resource("kueue.x-k8s.io", "v1beta1", "workloads", "Workload"),
        Resource("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute"),
        Resource("kueue.x-k8s.io", "v1beta1", "resourceflavors", "ResourceFlavor", namespaced=False, status=False),
    )
}


class RefusalError(Exception):
    """An answer that is not a success."""

    def __init__(self, status: int, reason: str, message: str = "") -> None:
        super().__init__(f"{status} {reason} {message}")
        self.status, self.reason, self.message = status, reason, message or reason


@dataclass
class Change:
    version: int
    type: str
    plural: str
    object: dict[str, Any]


Identity = tuple[str, str, str]  # plural, namespace, name


@dataclass
class Storage:
    """Optimistic concurrency, server-side apply, graceful deletion, garbage collection by owner."""

    objects: dict[Identity, dict[str, Any]] = field(default_factory=dict)
    history: list[Change] = field(default_factory=list)
    compacted: int = 0  # a watch from before this version is answered with 410
    version: int = 100
    made: list[Identity] = field(default_factory=list)
    _owned: dict[tuple[Identity, str], set[tuple[str, ...]]] = field(default_factory=dict)
    _names: Any = field(default_factory=lambda: itertools.count(1))

    def get(self, identity: Identity) -> dict[str, Any]:
        if identity not in self.objects:
            raise RefusalError(404, "NotFound", f"{identity[0]} {identity[2]!r} not found")
        return self.objects[identity]

    def select(self, plural: str, namespace: str, labels: str = "", fields: str = "") -> list[dict[str, Any]]:
        return [
            one
            for (kind, at, _), one in sorted(self.objects.items())
            if kind == plural and namespace in {"", at} and matches(one, labels) and has_fields(one, fields)
        ]

    def create(self, plural: str, namespace: str, manifest: dict[str, Any]) -> dict[str, Any]:
        new = copy.deepcopy(manifest)
        meta = new["metadata"]
        if "name" not in meta:
            meta["name"] = f"{meta['generateName']}{next(self._names)}"
        identity = (plural, namespace, meta["name"])
        if identity in self.objects:
            raise RefusalError(409, "AlreadyExists", f"{plural} {meta['name']!r} already exists")
        if meta.get("resourceVersion"):
            raise RefusalError(400, "BadRequest", "resourceVersion should not be set on objects to be created")
        if RESOURCES[plural].status:
            new.pop("status", None)
        if plural == "pods":
            new["status"] = {"phase": "Pending"}
        if RESOURCES[plural].namespaced:
            meta["namespace"] = namespace
        meta |= {"uid": str(uuid.uuid4()), "creationTimestamp": STAMP, "generation": 1}
        self.made.append(identity)
        return self._store("ADDED", identity, new)

    def replace(self, identity: Identity, manifest: dict[str, Any]) -> dict[str, Any]:
        old = self.get(identity)
        check(old, manifest["metadata"])
        new = copy.deepcopy(manifest)
        new["metadata"] |= {name: old["metadata"][name] for name in ("uid", "creationTimestamp")}
        return self._store("MODIFIED", identity, new)

    def modify(self, plural: str, namespace: str, name: str, **changes: Any) -> dict[str, Any]:
        """What some other controller does: replace top-level parts."""
        identity = (plural, namespace, name)
        return self._store("MODIFIED", identity, copy.deepcopy(self.get(identity)) | changes)

    def apply(
        self, identity: Identity, manifest: dict[str, Any], manager: str, subresource: str, *, force: bool = True
    ) -> dict[str, Any]:
        """Merge what is given, remove what this manager gave before and leaves out now."""
        old, made = self.objects.get(identity), None
        if old is None:
            if subresource:
                raise RefusalError(404, "NotFound", f"{identity} not found")
            old = made = self.create(identity[0], identity[1], {"metadata": {"name": identity[2]}})
        check(old, manifest["metadata"])
        part = {"status": manifest.get("status", {})} if subresource else without(manifest, "status")
        given = {path for path in leaves(part) if path[:1] != ("metadata",) or path[1] in MERGED_METADATA}
        before = self._owned.get((identity, manager + subresource), set())
        foreign = old is not made and not before
        if foreign and not force and any(is_otherwise(old, path, value_at(part, path)) for path in given):
            raise RefusalError(409, "Conflict", "Apply failed: somebody else owns some of these fields")
        others = {p for (one, who), ps in self._owned.items() if one == identity for p in ps} - before
        new = copy.deepcopy(old)
        for path in before - given - others:
            remove(new, path)
        for path in given:
            put(new, path, value_at(part, path))
        self._owned[identity, manager + subresource] = given
        return new if new == old else self._store("MODIFIED", identity, new)

    def delete(self, identity: Identity, options: dict[str, Any]) -> dict[str, Any]:
        old = self.get(identity)
        wanted = options.get("preconditions") or {}
        for name in ("uid", "resourceVersion"):
            if wanted.get(name, old["metadata"][name]) != old["metadata"][name]:
                raise RefusalError(409, "Conflict", f"the {name} in the precondition does not match")
        grace = options.get("gracePeriodSeconds", 30)
        if identity[0] == "pods" and grace and old.get("spec", {}).get("nodeName"):
            if "deletionTimestamp" in old["metadata"]:
                return old
            new = copy.deepcopy(old)
            new["metadata"] |= {"deletionTimestamp": STAMP, "deletionGracePeriodSeconds": grace}
            return self._store("MODIFIED", identity, new)
        return self.vanish(identity)

    def vanish(self, identity: Identity) -> dict[str, Any]:
        """Remove an object at once, and with it what it owns."""
        old = self.objects.pop(identity)
        self.version += 1
        last = copy.deepcopy(old)
        last["metadata"]["resourceVersion"] = str(self.version)
        self.history.append(Change(self.version, "DELETED", identity[0], last))
        for other, one in list(self.objects.items()):
            owners = {owner["uid"] for owner in one["metadata"].get("ownerReferences", ())}
            if old["metadata"]["uid"] in owners and other in self.objects:
                self.vanish(other)
        return last

    def forget_history(self) -> None:
        """Every watch from an earlier version gets 410 from now on."""
        self.compacted = self.version

    def _store(self, what: str, identity: Identity, new: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        resource = RESOURCES[identity[0]]
        new |= {"apiVersion": resource.api_version, "kind": resource.kind}
        new["metadata"]["resourceVersion"] = str(self.version)
        self.objects[identity] = new
        self.history.append(Change(self.version, what, identity[0], new))
        return new


MERGED_METADATA = {"labels", "annotations", "ownerReferences"}


def check(old: dict[str, Any], meta: dict[str, Any]) -> None:
    for name in ("resourceVersion", "uid"):
        if meta.get(name) not in (None, "", old["metadata"][name]):
            raise RefusalError(409, "Conflict", f"the object has been modified: {name} {meta[name]}")


def without(manifest: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in manifest.items() if name not in (*names, "apiVersion", "kind")}


def leaves(value: Any, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    if isinstance(value, dict) and value:
        return {leaf for name, inner in value.items() for leaf in leaves(inner, (*path, name))}
    return {path} if path else set()


def is_otherwise(value: Any, path: tuple[str, ...], wanted: Any) -> bool:
    """Whether there is a value at the path, and it is another."""
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return False
        value = value[name]
    return bool(value != wanted)


def value_at(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        value = value[name]
    return copy.deepcopy(value)


def put(target: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        if not isinstance(target.get(name), dict):
            target[name] = {}
        target = target[name]
    target[path[-1]] = value


def remove(target: dict[str, Any], path: tuple[str, ...]) -> None:
    parents = []
    for name in path[:-1]:
        if not isinstance(target.get(name), dict):
            return
        parents.append((target, name))
        target = target[name]
    target.pop(path[-1], None)
    for parent, name in reversed(parents):
        if parent[name] == {}:
            del parent[name]


def matches(manifest: dict[str, Any], selector: str) -> bool:
    labels = manifest["metadata"].get("labels") or {}
    for term in filter(None, selector.split(",")):
        name, sign, value = re.fullmatch("!?([^!=]+)(!?=)?(.*)", term).groups()
        bears = name in labels and (not sign or labels[name] == value)
        if bears == (term.startswith("!") or sign == "!="):
            return False
    return True


def has_fields(manifest: dict[str, Any], selector: str) -> bool:
    for term in filter(None, selector.split(",")):
        path, sign, value = re.split("(!?=)", term, maxsplit=1)
        found: Any = manifest
        for name in path.split("."):
            found = found.get(name, {}) if isinstance(found, dict) else {}
        if (found == value) != (sign == "="):
            return False
    return True


def encode(document: Any) -> bytes:
    return json.dumps(document).encode()
