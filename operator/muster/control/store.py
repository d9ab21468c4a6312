"""What is known of the cluster: filled by watches, corrected by lists, read as one frozen `Observed`.

The store is a hint and never the last word: watches lag, and what vanishes in a gap of a watch is not told.
So it only moves forward (an older version of an object never replaces a newer one, what was seen deleted
never comes back), answers to our own writes enter it at once, and a full LIST removes what is not there.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from muster.client import (
    AUTOSCALERS,
    BUDGETS,
    FLAVORS,
    HTTP_ROUTES,
    NODES,
    PODS,
    REVISIONS,
    SERVICES,
    SLICES,
    WORKLOADS,
    Kind,
    Object,
)
from muster.control.kinds import Controlled, Key
from muster.plan import requests
from muster.plan.model import Observed, WorkerReport
from muster.plan.serving import routing

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from muster.plan.model import Admission, Refusal

_REMEMBERED_DELETIONS = 10_000

# Large, and of no use to any planner: who set which field, and the images on a node.
_DROPPED = {"metadata": ("managedFields",), "status": ("images",)}

_OF_PODS = {
    "metadata": (
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "labels",
        "ownerReferences",
        "creationTimestamp",
        "deletionTimestamp",
    ),
    "status": ("phase", "reason", "message", "podIP", "conditions", "containerStatuses"),
}


def lean(manifest: Mapping[str, Any]) -> Object:
    """The object without what only costs memory. The given one is left as it is."""
    result = dict(manifest)
    for section, names in _DROPPED.items():
        part = result.get(section)
        if part and any(name in part for name in names):
            result[section] = {name: value for name, value in part.items() if name not in names}
    return result


def kept(kind: Kind, manifest: Mapping[str, Any]) -> Object:
    """What the store holds of an object. Of pods and of their addresses, which are many, what a planner looks at."""
    if kind == SLICES:
        return routing.kept(manifest)
    if kind != PODS:
        return lean(manifest)
    parts = {part: _only(names, manifest.get(part, {})) for part, names in _OF_PODS.items()}
    parts["spec"] = requests.wanted(manifest.get("spec", {}))
    return {"apiVersion": kind.api_version, "kind": kind.kind, **parts}


def _only(names: Iterable[str], of: Mapping[str, Any]) -> Object:
    return {name: of[name] for name in names if name in of}


def version_of(manifest: Mapping[str, Any]) -> int | None:
    """The resource version as a number: Kubernetes guarantees since 1.35 that they compare as such."""
    try:
        return int(manifest["metadata"]["resourceVersion"])
    except (KeyError, ValueError):
        return None


def _is_newer(new: Object, old: Object) -> bool:
    if new["metadata"].get("resourceVersion") == old["metadata"].get("resourceVersion"):
        return False
    new_version, old_version = version_of(new), version_of(old)
    return new_version is None or old_version is None or new_version > old_version


def _standing(node: Object) -> tuple[Any, ...]:
    """What of a node matters to the pods on it: everything else changes all the time."""
    ready = [
        condition.get("status")
        for condition in node.get("status", {}).get("conditions") or ()
        if condition.get("type") == "Ready"
    ]
    spec = node.get("spec", {})
    return ready, spec.get("taints"), spec.get("unschedulable"), node["metadata"].get("deletionTimestamp")


def _room(node: Object) -> tuple[Any, ...]:
    return _standing(node), node.get("status", {}).get("allocatable"), node["metadata"].get("labels")


class Store:
    """All objects watched, by owner and by node too. A change answers with the keys to look at again."""

    def __init__(self, controlled: Collection[Controlled]) -> None:
        self._controlled = {one.kind.kind: one.kind for one in controlled}
        self._names = {one.kind.kind: one.names for one in controlled}
        self._named_by: dict[Key, set[Key]] = defaultdict(set)
        self._objects: dict[str, dict[tuple[str, str], Object]] = defaultdict(dict)
        self._owned: dict[tuple[str, str], dict[tuple[str, str], Object]] = defaultdict(dict)
        self._by_node: dict[str, dict[tuple[str, str], Object]] = defaultdict(dict)
        self._gone: OrderedDict[str, int | None] = OrderedDict()  # and at which version, where only a view lost it
        self._nodes: Mapping[str, Object] | None = None
        self._reports: dict[str, WorkerReport] = {}
        self._heard_at = 0.0
        self._unheard = 0.0, 0.0
        self._followed: set[str] = set()
        self.room_changes = 0
        """How often room may have come free or gone: a count of room from before the last time is void."""
        self.on_room_change: Callable[[], None] = lambda: None

    def keys(self) -> list[Key]:
        return [Key(kind, *identity) for kind in self._controlled for identity in self._objects[kind]]

    def kind_of(self, key: Key) -> Kind:
        return self._controlled[key.kind]

    def count(self, kind: Kind) -> int:
        return len(self._objects[kind.kind])

    def resource(self, key: Key) -> Object | None:
        return self._objects[key.kind].get((key.namespace, key.name))

    def follows(self, kind: str) -> bool:
        """Whether all objects of a kind that others define are known."""
        return kind in self._followed

    def follow(self, kind: Kind) -> None:
        """From now on all objects of this kind are known."""
        self._followed.add(kind.kind)

    def unfollow(self, kind: Kind) -> None:
        """The cluster does not have the kind any more."""
        self._followed.discard(kind.kind)
        for identity, one in list(self._objects[kind.kind].items()):
            self._drop(kind, identity, one["metadata"].get("uid"), version_of(one))  # it may be there all the same

    @property
    def nodes(self) -> Mapping[str, Object]:
        """All nodes, by name."""
        if self._nodes is None:
            nodes = {name: node for (_, name), node in self._objects[NODES.kind].items()}
            self._nodes = MappingProxyType(nodes)
        return self._nodes

    @property
    def pods(self) -> Iterable[Object]:
        """All pods watched."""
        return self._objects[PODS.kind].values()

    def observe(self, key: Key, admission: Admission | None = None, refusal: Refusal | None = None) -> Observed | None:
        """All that is known of one resource; None when there is no such resource."""
        resource = self.resource(key)
        if resource is None:
            return None
        uid = resource["metadata"]["uid"]
        pods = self._of(uid, PODS)
        uids = (pod["metadata"]["uid"] for pod in pods)
        reports = {uid: self._reports[uid] for uid in uids if uid in self._reports}
        named = {
            (kind, name): other
            for kind, name in self._names[key.kind](resource)
            if (other := self.resource(Key(kind, key.namespace, name))) is not None
        }
        return Observed(
            resource,
            pods=pods,
            services=self._of(uid, SERVICES),
            budgets=self._of(uid, BUDGETS),
            autoscalers=self._of(uid, AUTOSCALERS),
            revisions=self._of(uid, REVISIONS),
            nodes=self.nodes,
            reports=reports,
            named=named,
            admission=admission,
            refusal=refusal,
            workloads=self._of(uid, WORKLOADS) if self.follows(WORKLOADS.kind) else None,
            routes=self._of(uid, HTTP_ROUTES) if self.follows(HTTP_ROUTES.kind) else None,
            flavors={name: one for (_, name), one in self._objects[FLAVORS.kind].items()},
            heard_at=self._heard_at,
            unheard=self._unheard,
            routed=routing.addresses(self._of(uid, SLICES)),
        )

    def _of(self, uid: str, kind: Kind) -> tuple[Object, ...]:
        """All of this kind that the resource owns."""
        return tuple(self._owned[uid, kind.kind].values()) if (uid, kind.kind) in self._owned else ()

    def owns(self, resource: Mapping[str, Any], kind: Kind, manifest: Mapping[str, Any]) -> bool:
        """Whether an object of this name is known to be the resource's."""
        return _identity(manifest) in self._owned.get((resource["metadata"]["uid"], kind.kind), {})

    def concerned(self, key: Key) -> set[Key]:
        """Who is to be looked at when this resource changes: itself, and who names it."""
        return {key} | self._named_by.get(key, set())

    def put(self, kind: Kind, manifest: Mapping[str, Any]) -> set[Key]:
        """Take an object as a watch, a list or the answer to a write showed it."""
        new = kept(kind, manifest)
        uid, identity = new["metadata"].get("uid"), _identity(new)
        old = self._objects[kind.kind].get(identity)
        if self._is_gone(new) or (old is not None and not _is_newer(new, old)):
            return set()
        self._gone.pop(uid, None)
        if old is not None:
            self._unindex(kind, identity, old)
        self._objects[kind.kind][identity] = new
        self._index(kind, identity, new)
        return self._affected(kind, old, new)

    def known(self, kind: Kind, manifest: Object) -> Object:
        """The object as it is held already, if this is the same version of it; else what would be held of it."""
        held = self._objects[kind.kind].get(_identity(manifest))
        same = ("uid", "resourceVersion")
        if held is not None and all(held["metadata"].get(name) == manifest["metadata"].get(name) for name in same):
            return held
        return kept(kind, manifest)

    def remove(self, kind: Kind, manifest: Mapping[str, Any], at: int | None = None) -> set[Key]:
        """Take it that an object was deleted.

        `at`: in which version of the cluster a watch lost it, which may be for want of a label: it may come back later.
        """
        meta = manifest["metadata"]
        return self._drop(kind, _identity(manifest), meta.get("uid"), at)

    def _is_gone(self, manifest: Object) -> bool:
        uid, version = manifest["metadata"].get("uid"), version_of(manifest)
        at = self._gone.get(uid)
        return uid in self._gone and (at is None or version is None or version < at)

    def correct(
        self, kind: Kind, items: Iterable[Object], version: str, namespace: str | None = None
    ) -> tuple[set[Key], int]:
        """Make the store agree with a LIST; returns the keys to look at again, and how much was wrong."""
        changed: set[Key] = set()
        listed, wrong = set(), 0
        for item in items:
            listed.add(item["metadata"].get("uid"))
            before = self._objects[kind.kind].get(_identity(item))
            changed |= self.put(kind, item)
            wrong += self._objects[kind.kind].get(_identity(item)) is not before
        for identity, known in list(self._objects[kind.kind].items()):
            if namespace is not None and identity[0] != namespace:
                continue
            if known["metadata"].get("uid") not in listed and not _later_than(known, version):
                at = int(version) if version.isdigit() else None
                changed |= self._drop(kind, identity, known["metadata"].get("uid"), at)
                wrong += 1
        return changed, wrong

    def report(self, pod_uid: str) -> WorkerReport | None:
        return self._reports.get(pod_uid)

    def put_report(self, pod_uid: str, report: WorkerReport) -> None:
        """Take what a pod's agent answered, or that it did not."""
        if report.silent_since is None:
            self._heard_at = max(self._heard_at, report.received_at)
        if pod_uid not in self._gone:
            self._reports[pod_uid] = report

    def hear_again(self, at: float) -> None:
        """Take it that from the last answer until now nobody has given one."""
        self._unheard = self._heard_at, at

    def forget_reports(self) -> None:
        """Nobody is asked any more: what was said, and who was silent, is not known to go on."""
        self._reports.clear()
        self._heard_at, self._unheard = 0.0, (0.0, 0.0)

    def _drop(self, kind: Kind, identity: tuple[str, str], uid: str | None, at: int | None = None) -> set[Key]:
        if uid is not None:
            self._gone[uid] = at
            self._reports.pop(uid, None)
            if len(self._gone) > _REMEMBERED_DELETIONS:
                self._gone.popitem(last=False)
        old = self._objects[kind.kind].get(identity)
        if old is None or old["metadata"].get("uid") != uid:
            return set()
        del self._objects[kind.kind][identity]
        self._unindex(kind, identity, old)
        return self._affected(kind, old, None)

    def _affected(self, kind: Kind, old: Object | None, new: Object | None) -> set[Key]:
        """The keys of all resources that a change of one object may matter to."""
        present: Object = new or old or {}
        if kind.kind in self._controlled:
            return self.concerned(Key(kind.kind, *_identity(present)))
        if kind == NODES:
            return self._affected_by_node(old, new)
        keys = {key for one in (old, new) if one is not None for key in self._owners(one)}
        if kind == PODS and (new is None or _has_ended(new)):
            self._change_room()
        return keys

    def _affected_by_node(self, old: Object | None, new: Object | None) -> set[Key]:
        present: Object = new or old or {}
        if old and new and _room(old) == _room(new):
            return set()
        keys: set[Key] = set()
        self._change_room()
        if old is None or new is None or _standing(old) != _standing(new):
            for pod in self._by_node.get(present["metadata"]["name"], {}).values():
                keys |= self._owners(pod)
        return keys

    def _naming(self, kind: Kind, identity: tuple[str, str], manifest: Object) -> set[Key]:
        """The other resources under control that this one names."""
        if kind.kind not in self._controlled:
            return set()
        return {Key(named, identity[0], name) for named, name in self._names[kind.kind](manifest)}

    def _change_room(self) -> None:
        self.room_changes += 1
        self.on_room_change()

    def _owners(self, manifest: Object) -> set[Key]:
        namespace = manifest["metadata"].get("namespace", "")
        return {
            Key(owner["kind"], namespace, owner["name"])
            for owner in manifest["metadata"].get("ownerReferences") or ()
            if owner["kind"] in self._controlled and owner["apiVersion"] == self._controlled[owner["kind"]].api_version
        }

    def _index(self, kind: Kind, identity: tuple[str, str], manifest: Object) -> None:
        for key in self._naming(kind, identity, manifest):
            self._named_by[key].add(Key(kind.kind, *identity))
        for owner in manifest["metadata"].get("ownerReferences") or ():
            self._owned[owner["uid"], kind.kind][identity] = manifest
        if kind == NODES:
            self._nodes = None
        if kind == PODS and (node := manifest.get("spec", {}).get("nodeName")):
            self._by_node[node][identity] = manifest

    def _unindex(self, kind: Kind, identity: tuple[str, str], manifest: Object) -> None:
        for key in self._naming(kind, identity, manifest):
            self._named_by[key].discard(Key(kind.kind, *identity))
            if not self._named_by[key]:
                del self._named_by[key]
        for owner in manifest["metadata"].get("ownerReferences") or ():
            _discard(self._owned, (owner["uid"], kind.kind), identity)
        if kind == NODES:
            self._nodes = None
        if kind == PODS and (node := manifest.get("spec", {}).get("nodeName")):
            _discard(self._by_node, node, identity)


def _identity(manifest: Mapping[str, Any]) -> tuple[str, str]:
    meta = manifest["metadata"]
    return meta.get("namespace", ""), meta["name"]


def _has_ended(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}


def _later_than(manifest: Object, version: str) -> bool:
    """Whether the object was made or changed after the list was taken, so that its absence means nothing."""
    own = version_of(manifest)
    return own is not None and version.isdigit() and own > int(version)


def _discard(index: dict[Any, dict[tuple[str, str], Object]], key: object, identity: tuple[str, str]) -> None:
    entries = index.get(key)
    if entries is None:
        return
    entries.pop(identity, None)
    if not entries:
        del index[key]
