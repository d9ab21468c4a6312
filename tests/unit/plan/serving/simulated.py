"""A cluster small enough to think about: it runs pods as plans want them, and things happen to it.

Writes are carried out in the executor's order and may stop after any of them, as when the operator dies. A pod that is
told to leave answers no more requests and is there for a while yet. A group answers when all of its pods are there.
A gateway says that it has taken a route up, and does so a moment later.
"""

from __future__ import annotations

import copy
from typing import Any

from muster.plan.model import Admission, Demand, Observed, Plan, WorkerReport
from muster.plan.serving.planner import plan
from muster.plan.timestamps import to_epoch, to_timestamp
from tests.unit.plan.fixtures import NOW, node
from tests.unit.plan.serving.fixtures import SETTINGS, deployment

ROOM = 3
"""Pods on each node."""
BROKEN = "broken"
"""A restart of this text makes a revision that does not load."""


GATEWAY, LATE = "inference", 3.0
"""The Gateway, and for how many seconds it sends requests where it did before it said that it has changed that."""


class Simulated:
    def __init__(self) -> None:
        self.now = NOW
        self.resource = deployment(replicas=2)
        self.pods: dict[str, dict[str, Any]] = {}
        self.kept: dict[tuple[str, str], dict[str, Any]] = {}
        self.nodes = {name: node(name) for name in ("node-1", "node-2", "node-3")}
        self.leaves_at: dict[str, float] = {}
        self.version = 100
        self.demand: Demand | None = None
        self.routed: frozenset[str] = frozenset()
        self.taken_up: list[tuple[float, set[str]]] = []
        self.refusing = False
        """Whether the kubelets refuse each pod that comes."""
        self.denied = False
        """Whether a policy lets the operator through to none of the pods, though to others."""
        self.broken: set[tuple[str, str]] = set()
        """Groups, and which attempt at them, that have lost a pod after the status had told that they were made."""

    def observed(self) -> Observed:
        def of(kind: str) -> tuple[dict[str, Any], ...]:
            return tuple(copy.deepcopy(one) for (what, _), one in self.kept.items() if what == kind)

        return Observed(
            copy.deepcopy(self.resource),
            pods=tuple(copy.deepcopy(one) for one in self.pods.values()),
            services=of("Service"),
            budgets=of("PodDisruptionBudget"),
            revisions=of("ControllerRevision"),
            nodes=copy.deepcopy(self.nodes),
            admission=self._admission(),
            routed=self.routed,
            routes=of("HTTPRoute"),
            reports=self._reports() if self.denied else {},
            heard_at=self.now,
        )

    def _reports(self) -> dict[str, WorkerReport]:
        """Of pods that are asked: nobody has answered since they began to serve."""
        serving = (
            (pod["metadata"]["uid"], to_epoch(one["lastTransitionTime"]))
            for pod in self.pods.values()
            for one in pod["status"]["conditions"]
            if (one["type"], one["status"]) == ("ContainersReady", "True")
        )
        return {uid: WorkerReport(None, since, since) for uid, since in serving}

    def plan(self) -> Plan:
        return plan(self.observed(), SETTINGS, self.now)

    def carry_out(self, answer: Plan, writes: int | None = None) -> None:
        """As the executor does; only so many writes where that is given."""
        self.demand = answer.demand if not answer.creates else None
        steps = [
            *((self._delete, one) for one in answer.deletes),
            *((self._apply, one) for one in answer.applies),
            *((self._create, one) for one in answer.creates),
            *((self._apply, one) for one in answer.besides),
            *([(self._write_status, answer.status)] if answer.status is not None else []),
        ]
        for step, what in steps[:writes]:
            step(what)

    def edit(self, **spec: Any) -> None:
        changed = copy.deepcopy(self.resource["spec"])
        changed |= spec
        self.resource["spec"] = changed
        self.resource["metadata"]["generation"] += 1
        self._touch(self.resource)

    def advance(self, seconds: float = 3.0) -> None:
        """Let the kubelets and the scheduler do what they would in so many seconds.

        Who became ready before is sent requests from now on; who does not answer any more is not, from then on.
        """
        self.now += seconds
        self._take_routes_up()
        self.routed = frozenset(pod["status"]["podIP"] for pod in self.pods.values() if self._is_ready(pod))
        for name in [name for name, at in self.leaves_at.items() if at <= self.now and self._reachable(name)]:
            self.pods.pop(name, None)
            del self.leaves_at[name]
        for pod in self.pods.values():
            if "deletionTimestamp" in pod["metadata"]:
                continue
            if "nodeName" not in pod["spec"]:
                self._schedule(pod)
            elif self._reachable(pod["metadata"]["name"]):
                self._run(pod)

    def answering(self) -> list[dict[str, Any]]:
        """The pods that requests reach."""
        return [pod for pod in self.pods.values() if self.answers(pod)]

    def answers(self, pod: dict[str, Any]) -> bool:
        return self._is_ready(pod) and pod["status"]["podIP"] in self.routed

    def _is_ready(self, pod: dict[str, Any]) -> bool:
        ready = next(one for one in pod["status"]["conditions"] if one["type"] == "Ready")["status"] == "True"
        return ready and pod["metadata"]["labels"]["muster.dev/role"] == "leader" and self._is_whole(pod)

    def weighted(self) -> set[str]:
        """The revisions that the gateway sends requests to, or will."""
        before = [revisions for at, revisions in self.taken_up if at + LATE <= self.now][-1:]
        since = [revisions for at, revisions in self.taken_up if at + LATE > self.now]
        return set().union(*before, *since, *map(weighted_by, self._routes()))

    def living(self) -> list[dict[str, Any]]:
        """The first pods of groups of which nobody told any to leave, and none is on a node that is away."""
        first: dict[tuple[str, str], dict[str, Any]] = {}
        for pod in self.pods.values():
            if self._is_whole(pod):
                first.setdefault(_of(pod), pod)
        return list(first.values())

    def lose(self, number: int) -> None:
        """A node is cut off: its pods are not ready any more, says the node controller."""
        name = self._node(number)
        self.nodes[name] = node(name, ready="Unknown", since=self.now)
        for pod in self.pods.values():
            if pod["spec"].get("nodeName") == name:
                self._set(pod, "Ready", "False")
                self._touch(pod)

    def cordon(self, number: int) -> None:
        name = self._node(number)
        self.nodes[name] = node(name, unschedulable=True)

    def heal(self) -> None:
        self.nodes = {name: node(name) for name in self.nodes}

    def delete_pod(self, number: int, at_once: bool) -> None:
        """What somebody else does."""
        if self.pods:
            self._leave(self._pod(number), 0.0 if at_once else 6.0)

    def kill_process(self, number: int) -> None:
        if not self.pods:
            return
        pod = self.pods[self._pod(number)]
        container = pod["status"]["containerStatuses"][0]
        container["restartCount"] += 1
        died = {"exitCode": 137, "reason": "Error", "finishedAt": to_timestamp(self.now)}
        container["lastState"] = {"terminated": died}
        for one in self._group(pod):
            self._set(one, "Ready", "False")
            self._touch(one)

    def _routes(self) -> list[dict[str, Any]]:
        return [one for (kind, _), one in self.kept.items() if kind == "HTTPRoute"]

    def _take_routes_up(self) -> None:
        for route in self._routes():
            generation = {"observedGeneration": route["metadata"]["generation"]}
            said = [{"type": kind, "status": "True"} | generation for kind in ("Accepted", "ResolvedRefs")]
            parents = [{"parentRef": {"name": GATEWAY}, "conditions": said}]
            if route["status"].get("parents") != parents:
                route["status"] = {"parents": parents}
                self.taken_up.append((self.now, weighted_by(route)))

    def _node(self, number: int) -> str:
        return sorted(self.nodes)[number % len(self.nodes)]

    def _pod(self, number: int) -> str:
        return sorted(self.pods)[number % len(self.pods)]

    def _delete(self, delete: Any) -> None:
        if delete.kind != "Pod":
            self.kept.pop((delete.kind, delete.name), None)
        elif delete.name in self.pods and self.pods[delete.name]["metadata"]["uid"] == delete.uid:
            self._leave(delete.name, 0.0 if delete.grace_seconds == 0 else 6.0)

    def _admission(self) -> Admission | None:
        """As the queue would answer, with nobody else in line."""
        if self.demand is None:
            return None
        taken = [pod["spec"].get("nodeName") for pod in self.pods.values()]
        free = sum(ROOM - taken.count(name) for name, one in self.nodes.items() if _takes_pods(one)) - taken.count(None)
        pods = min(free, len(self.demand.pods))
        granted = pods >= self.demand.least
        return Admission(granted, "Admitted" if granted else "InsufficientCapacity", f"room: {pods}", pods=pods)

    def _group(self, pod: dict[str, Any]) -> list[dict[str, Any]]:
        return [one for one in self.pods.values() if _of(one) == _of(pod)]

    def _is_whole(self, pod: dict[str, Any]) -> bool:
        group = self._group(pod)
        return len(group) == int(pod["metadata"]["labels"]["muster.dev/group-size"]) and all(
            "deletionTimestamp" not in one["metadata"]
            and one["status"]["phase"] != "Failed"
            and self._reachable(one["metadata"]["name"])
            for one in group
        )

    def _leave(self, name: str, seconds: float) -> None:
        group, attempt = _of(self.pods[name])
        if int(attempt) <= self.resource.get("status", {}).get("attempt", 0):
            self.broken.add((group, attempt))
        if seconds:
            self.pods[name]["metadata"]["deletionTimestamp"] = to_timestamp(self.now)
            self.leaves_at.setdefault(name, self.now + seconds)
            self._touch(self.pods[name])
        else:
            del self.pods[name]
            self.leaves_at.pop(name, None)

    def _apply(self, manifest: Any) -> None:
        made = copy.deepcopy(manifest)
        made["metadata"]["uid"] = f"uid-{made['metadata']['name']}"
        if made["kind"] == "HTTPRoute":
            before = self.kept.get((made["kind"], made["metadata"]["name"]), {"metadata": {"generation": 0}})
            made["metadata"]["generation"] = before["metadata"]["generation"] + 1
            made["status"] = before.get("status", {})
        self.kept[made["kind"], made["metadata"]["name"]] = made

    def _create(self, manifest: Any) -> None:
        name = manifest["metadata"]["name"]
        assert name not in self.pods, f"{name} is made twice"
        pod = copy.deepcopy(manifest)
        assert _of(pod) not in self.broken, f"{name} is made beside older pods of its group"
        pod["metadata"]["uid"] = f"uid-{name}"
        pod["status"] = {
            "phase": "Pending",
            "podIP": f"10.{self.version >> 16}.{self.version >> 8 & 255}.{self.version & 255}",
            "conditions": [],
            "containerStatuses": [{"name": "worker", "restartCount": 0}],
        }
        self._set(pod, "Ready", "False")
        self._touch(pod)
        self.pods[name] = pod

    def _write_status(self, status: Any) -> None:
        self.resource["status"] = copy.deepcopy(status)
        self._touch(self.resource)

    def _schedule(self, pod: dict[str, Any]) -> None:
        for name, one in self.nodes.items():
            there = sum(other["spec"].get("nodeName") == name for other in self.pods.values())
            if _takes_pods(one) and there < ROOM:
                pod["spec"]["nodeName"] = name
                self._set(pod, "PodScheduled", "True")
                self._touch(pod)
                return
        self._set(pod, "PodScheduled", "False", reason="Unschedulable", message="no node has room")

    def _run(self, pod: dict[str, Any]) -> None:
        revision = self.kept["ControllerRevision", f"digits-{pod['metadata']['labels']['muster.dev/revision']}"]
        if self.refusing and pod["status"]["phase"] != "Running":
            pod["status"] |= {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "no such device"}
            self._touch(pod)
            return
        pod["status"]["phase"] = "Running"
        if revision["data"]["shape"].get("rollout", {}).get("restart") == BROKEN:
            container = pod["status"]["containerStatuses"][0]
            container["restartCount"] += 1
            container["lastState"] = {"terminated": {"exitCode": 2, "reason": "Error", "message": "error: no model"}}
        else:
            started = self._is_whole(pod) and all("nodeName" in one["spec"] for one in self._group(pod))
            self._set(pod, "Ready", str(started))
            if started != self._is_set(pod, "ContainersReady"):
                self._set(pod, "ContainersReady", str(started))
        self._touch(pod)

    def _reachable(self, name: str) -> bool:
        pod = self.pods.get(name)
        where = pod["spec"].get("nodeName") if pod is not None else None
        return where is None or self.nodes[where]["status"]["conditions"][0]["status"] == "True"

    def _is_set(self, pod: dict[str, Any], kind: str) -> bool:
        return any((one["type"], one["status"]) == (kind, "True") for one in pod["status"]["conditions"])

    def _set(self, pod: dict[str, Any], kind: str, status: str, **more: str) -> None:
        others = [one for one in pod["status"]["conditions"] if one["type"] != kind]
        new = {"type": kind, "status": status, "lastTransitionTime": to_timestamp(self.now)} | more
        pod["status"]["conditions"] = [*others, new]

    def _touch(self, manifest: dict[str, Any]) -> None:
        self.version += 1
        manifest["metadata"]["resourceVersion"] = str(self.version)


def _of(pod: dict[str, Any]) -> tuple[str, str]:
    labels = pod["metadata"]["labels"]
    return labels["muster.dev/group"], labels["muster.dev/attempt"]


def weighted_by(route: dict[str, Any]) -> set[str]:
    (rule,) = route["spec"]["rules"]
    assert sum(one["weight"] for one in rule["backendRefs"]) == 100
    return {one["name"].removeprefix("digits-") for one in rule["backendRefs"]}


def _takes_pods(node: dict[str, Any]) -> bool:
    return node["status"]["conditions"][0]["status"] == "True" and not node["spec"].get("unschedulable")
