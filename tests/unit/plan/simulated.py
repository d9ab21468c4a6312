"""A cluster small enough to run thousands of whole jobs a minute, with an operator that may die or see the past.

It keeps the rules that the planner relies on: names are unique, a write with an old resourceVersion is refused, a
pod on an unreachable node neither ends nor hears of its deletion, agents form a group of the highest attempt.
"""

from __future__ import annotations

import contextlib
import copy
import json
from dataclasses import dataclass, field, replace
from typing import Any

from muster.plan.capacity import Capacity
from muster.plan.conditions import condition, is_true, merged
from muster.plan.model import Delete, Observed, Plan, StatusPart, WorkerReport
from muster.plan.nodes import unreachable_since
from muster.plan.timestamps import to_timestamp
from muster.plan.training.planner import plan
from tests.unit.plan.fixtures import NOW, SETTINGS, admitted, job, node

NODES = ("node-1", "node-2", "node-3", "node-4")
HISTORY = 6


class OperatorLostError(Exception):
    """The operator dies here: what it has written stays."""


class ConflictError(Exception):
    """A precondition does not hold."""


@dataclass
class Cluster:
    job: dict[str, Any] = field(default_factory=job)
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    services: dict[str, dict[str, Any]] = field(default_factory=dict)
    unreachable: set[str] = field(default_factory=set)
    given_up: set[str] = field(default_factory=set)
    done: bool = False
    in_place: int = 0
    composition: frozenset[str] = frozenset()
    noticed: list[dict[str, Any]] = field(default_factory=list)
    leader: str | None = None
    step: int = 0
    stepped_at: float = NOW
    now: float = NOW
    writes: int = 0
    versions: int = 1
    past: list[Observed] = field(default_factory=list)
    workload: dict[str, Any] | None = None
    workload_was_deleted: bool = False

    # --- what the operator does ---------------------------------------------------------------

    def reconcile(self, *, staleness: int = 0, dies_after: int | None = None) -> Plan:
        """Observe (as it was some versions ago), plan, and carry the plan out; perhaps die after some writes."""
        self.past = [*self.past, self.observe()][-HISTORY:]
        seen = self.past[-1 - min(staleness, len(self.past) - 1)]
        answer = plan(seen, SETTINGS, self.now)
        if answer.demand is not None:
            capacity = Capacity.count(self.nodes().values(), self.pods.values(), self.now)
            seen = replace(seen, admission=admitted(answer.demand, capacity, self.now))
            answer = plan(seen, SETTINGS, self.now)
        self.given_up = {name for name, one in seen.nodes.items() if unreachable_since(one) is not None}
        with contextlib.suppress(ConflictError):
            self._carry_out(answer, seen.resource["metadata"]["resourceVersion"], dies_after)
        return answer

    def _carry_out(self, answer: Plan, version: str, dies_after: int | None) -> None:
        if (answer.creates or answer.deletes) and self.job["metadata"]["resourceVersion"] != version:
            return
        left = [dies_after]

        def write() -> None:
            if left[0] is not None:
                if left[0] == 0:
                    raise OperatorLostError
                left[0] -= 1
            self.writes += 1

        for deletion in answer.deletes:
            write()
            self._delete(deletion)
        for made in answer.applies:
            write()
            self._apply(made)
        for pod in answer.creates:
            write()
            self._create(pod)
        for part in answer.parts:
            write()
            self._apply_part(part)
        if answer.status is not None:
            write()
            self._write_status(answer.status, version)

    def _write_status(self, status: Any, version: str) -> None:
        if self.job["metadata"]["resourceVersion"] == version:
            self._assert_true(status)
            self._touch()["status"] = copy.deepcopy(dict(status))

    def _assert_true(self, status: Any) -> None:
        assert status["phase"] != "Succeeded" or self.done, "Succeeded is written, and no group ever finished"

    def _touch(self) -> dict[str, Any]:
        self.versions += 1
        self.job["metadata"]["resourceVersion"] = str(self.versions)
        return self.job

    def _create(self, manifest: Any) -> None:
        name = manifest["metadata"]["name"]
        if name in self.pods:
            return
        rank = manifest["metadata"]["labels"]["muster.dev/rank"]
        rivals = [p for p in self.pods.values() if p["metadata"]["labels"]["muster.dev/rank"] == rank and not ended(p)]
        # One that was unreachable when it was looked at may be back now: no precondition could tell.
        rivals = [p for p in rivals if p["spec"].get("nodeName") not in self.unreachable | self.given_up]
        assert not rivals, f"{name} is made while {rivals[0]['metadata']['name']} may still run"
        assert not self.over, f"{name} is made after the end"
        if self.in_queue and not self.workload_was_deleted:
            assert self.kueue_says("QuotaReserved"), f"{name} is made without quota"
        pod = copy.deepcopy(dict(manifest))
        pod["metadata"]["uid"] = f"uid-{name}-{self.versions}"
        pod["status"] = {"phase": "Pending"}
        self._bump(pod)
        self.pods[name] = pod

    def _delete(self, deletion: Delete) -> None:
        """Raises as the client does when a precondition does not hold: nothing after it is carried out."""
        if deletion.kind == "Workload":
            self._delete_workload(deletion)
            return
        pod = self.pods.get(deletion.name)
        if pod is None:
            return
        if pod["metadata"]["uid"] != deletion.uid or deletion.resource_version not in {None, version_of(pod)}:
            raise ConflictError
        cut_off = pod["spec"].get("nodeName") in self.unreachable
        goes_on = self.admitted and not self.over and not self.job["spec"].get("suspend") and not self.withheld
        surplus = int(pod["metadata"]["labels"]["muster.dev/rank"]) >= self.size
        assert cut_off or surplus or not goes_on or self.superseded(pod), (
            f"{deletion.name} is deleted though nothing is wrong"
        )
        if deletion.grace_seconds == 0 or not pod["spec"].get("nodeName"):
            del self.pods[deletion.name]
        else:
            self._delete_gracefully(pod)

    def _delete_gracefully(self, pod: dict[str, Any]) -> None:
        pod["metadata"]["deletionTimestamp"] = to_timestamp(self.now)
        self._bump(pod)

    def _bump(self, pod: dict[str, Any]) -> None:
        self.versions += 1
        pod["metadata"]["resourceVersion"] = str(self.versions)

    def _apply(self, manifest: Any) -> None:
        if manifest["kind"] != "Workload":
            self.services[manifest["metadata"]["name"]] = copy.deepcopy(dict(manifest))
        elif self.workload is None:
            self._make_workload(manifest)

    def _make_workload(self, manifest: Any) -> None:
        self.workload = copy.deepcopy(dict(manifest))
        self.workload["metadata"] |= {"uid": f"w{self.versions}", "generation": 1}
        self.workload["spec"]["active"] = True
        self.workload["status"] = {"conditions": []}
        self._bump(self.workload)

    def _delete_workload(self, deletion: Delete) -> None:
        if self.workload is None or self.workload["metadata"]["uid"] != deletion.uid:
            return
        assert not self.take_room(), "the Workload of a suspended job goes before its pods"
        self.workload = None

    def _apply_part(self, part: StatusPart) -> None:
        meta = part.manifest["metadata"]
        if self.workload is None or meta["uid"] != self.workload["metadata"]["uid"]:
            raise ConflictError
        if meta.get("resourceVersion", version_of(self.workload)) != version_of(self.workload):
            raise ConflictError
        told = part.manifest["status"]["conditions"]
        if part.owner == "kueue-admission":
            assert not self.take_room(), "quota is given back while there are pods"
            self.workload["status"].pop("admission", None)
        self._kueue_writes(*told)

    def _kueue_writes(self, *told: Any) -> None:
        assert self.workload is not None
        self.workload["status"]["conditions"] = merged(self.workload["status"]["conditions"], *copy.deepcopy(told))
        self._bump(self.workload)

    # --- what everybody else does -------------------------------------------------------------

    def run_pods(self) -> None:
        """Kubelets: start what waits, end what is deleted, remove what has ended so."""
        for name, pod in list(self.pods.items()):
            on = pod["spec"].get("nodeName")
            if on in self.unreachable:
                continue
            if "deletionTimestamp" in pod["metadata"]:
                if ended(pod):
                    del self.pods[name]
                else:
                    self._finish(pod, "Failed", 143)
            elif pod["status"]["phase"] == "Pending":
                reachable = [n for n in NODES if n not in self.unreachable]
                if reachable:
                    pod["spec"]["nodeName"] = on or reachable[len(self.pods) % len(reachable)]
                    self._bump(pod)
                    pod["status"] = {
                        "phase": "Running",
                        "podIP": "10.0.0.1",
                        "conditions": [{"type": "Ready", "status": "True"}],
                        "containerStatuses": [{"name": "worker", "state": {"running": {}}}],
                    }

    def train(self) -> None:
        if self.group_trains():
            self.step += 1
            self.stepped_at = self.now

    def finish_all(self) -> None:
        """The whole group is done: every rank's pod ends with 0, or none does."""
        if self.group_trains():
            self.done = True
            for pod in self.group().values():
                self._finish(pod, "Succeeded", 0)

    def kill(self, index: int, code: int) -> None:
        running = [p for p in self.pods.values() if p["status"]["phase"] == "Running"]
        running = [p for p in running if p["spec"]["nodeName"] not in self.unreachable]
        if running:
            self._finish(running[index % len(running)], "Failed", code)

    def delete_as_user(self, index: int) -> None:
        names = sorted(self.pods)
        if names:
            pod = self.pods[names[index % len(names)]]
            self._delete_gracefully(pod)

    def suspend(self, wanted: bool) -> None:
        """A user writes it into the spec, whether or not it is there already."""
        self._touch()["spec"]["suspend"] = wanted

    def kueue_acts(self) -> None:
        """Kueue admits what is active and stands in line, and evicts what is not active."""
        if self.workload is None or self.kueue_says("Finished"):
            return
        active = self.workload["spec"]["active"]
        if not active and not self.kueue_says("Evicted"):
            self._kueue_writes(self._said("Evicted", "Deactivated"))
        elif active and not self.kueue_says("QuotaReserved"):
            assignment = {"name": "worker", "flavors": {"cpu": "any"}}
            self.workload["status"]["admission"] = {"clusterQueue": "all", "podSetAssignments": [assignment]}
            back = self._said("Evicted", "QuotaReserved", holds=False)
            self._kueue_writes(self._said("QuotaReserved"), self._said("Admitted"), back)

    def evict(self) -> None:
        """Somebody of higher priority has come."""
        if self.kueue_says("Admitted") and not self.kueue_says("Evicted"):
            self._kueue_writes(self._said("Evicted", "Preempted"))

    def activate(self, wanted: bool) -> None:
        if self.workload is not None and self.workload["spec"]["active"] != wanted:
            self.workload["spec"]["active"] = wanted
            self._bump(self.workload)

    def delete_workload(self) -> None:
        if self.workload is not None:
            self.workload, self.workload_was_deleted = None, True

    def _said(self, kind: str, reason: str = "", *, holds: bool = True) -> dict[str, Any]:
        return condition(
            [], kind, holds=holds, reason=reason or kind, message=reason or kind, generation=1, now=self.now
        )

    def scale(self, replicas: int) -> None:
        if "elastic" in self.job["spec"]:
            self._touch()["spec"]["replicas"] = replicas

    def agents_notice(self) -> None:
        """The agents of an elastic job find that somebody is missing, or has come, and form the group anew."""
        if not self.regroups or not self.group_trains():
            return
        now = frozenset(pod["metadata"]["name"] for pod in self.coordinated().values())
        if self.composition - now and now <= self.composition:
            before = max(self.attempt(), self.in_place)
            lost = min(self.composition - now)
            self.noticed.append({"attempt": before, "cause": "Silent", "pod": lost, "at": self.now})
            self.in_place = before + 1
        self.composition = now

    def kill_rank(self) -> None:
        """A process dies and its agent restarts it in place."""
        if self.group_trains():
            self.in_place = max(self.attempt(), self.in_place) + 1

    def cut_off(self, index: int) -> None:
        if len(self.unreachable) < len(NODES) - 1:
            self.unreachable.add(NODES[index % len(NODES)])
            self._mark_pods(NODES[index % len(NODES)])

    def heal(self) -> None:
        for name in self.unreachable:
            self._mark_pods(name)
        self.unreachable.clear()

    def _mark_pods(self, node_name: str) -> None:
        """The node controller, and later the kubelet, change the readiness of every pod there."""
        for pod in self.pods.values():
            if pod["spec"].get("nodeName") == node_name:
                self._bump(pod)

    def _finish(self, pod: dict[str, Any], phase: str, code: int) -> None:
        said = {"phase": "Succeeded", "attempt": int(pod["metadata"]["labels"]["muster.dev/attempt"])}
        terminated = {"exitCode": code, "reason": "Error", "message": ""}
        if code == 0:
            terminated |= {"reason": "Completed", "message": json.dumps(said)}
        pod["status"] = pod["status"] | {
            "phase": phase,
            "conditions": [{"type": "Ready", "status": "False"}],
            "containerStatuses": [{"name": "worker", "state": {"terminated": terminated}}],
        }
        self._bump(pod)

    # --- what is true -------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        return self.holds("Complete") or self.holds("Failed")

    @property
    def servers(self) -> int:
        """How many pods are parameter servers, whose workers come and go."""
        return self.job["spec"].get("strategy", {}).get("parameterServers", 0)

    @property
    def regroups(self) -> bool:
        """Whether the agents go on with whoever is there; those of parameter servers are always all of them."""
        return "elastic" in self.job["spec"] and not self.servers

    @property
    def size(self) -> int:
        return self.servers + self.job["spec"]["replicas"]

    @property
    def admitted(self) -> bool:
        return self.holds("Admitted")

    def holds(self, kind: str) -> bool:
        return is_true(self.job.get("status", {}).get("conditions", []), kind)

    @property
    def in_queue(self) -> bool:
        return "queueName" in self.job["spec"].get("scheduling", {})

    def kueue_says(self, kind: str) -> bool:
        return self.workload is not None and is_true(self.workload["status"]["conditions"], kind)

    @property
    def withheld(self) -> bool:
        """Kueue has something against it that the job runs."""
        if not self.in_queue:
            return False
        active = self.workload is not None and self.workload["spec"]["active"]
        return not active or not self.kueue_says("Admitted") or self.kueue_says("Evicted")

    def take_room(self) -> list[str]:
        """Pods that may run where somebody sees to it."""
        return [name for name in self.living() if self.pods[name]["spec"].get("nodeName") not in self.unreachable]

    def superseded(self, pod: Any) -> bool:
        labels = pod["metadata"]["labels"]
        others = (other["metadata"]["labels"] for other in self.pods.values())
        return any(
            other["muster.dev/rank"] == labels["muster.dev/rank"]
            and int(other["muster.dev/attempt"]) > int(labels["muster.dev/attempt"])
            for other in others
        )

    def living(self) -> list[str]:
        return [name for name, pod in self.pods.items() if not ended(pod)]

    def nodes(self) -> dict[str, dict[str, Any]]:
        return {n: node(n, ready="Unknown" if n in self.unreachable else "True", since=self.now) for n in NODES}

    def group(self) -> dict[str, dict[str, Any]]:
        """The newest pod of every rank that runs where it can be reached."""
        newest: dict[str, dict[str, Any]] = {}
        for pod in sorted(self.pods.values(), key=lambda p: int(p["metadata"]["labels"]["muster.dev/attempt"])):
            if pod["status"]["phase"] == "Running" and pod["spec"]["nodeName"] not in self.unreachable:
                newest[pod["metadata"]["labels"]["muster.dev/rank"]] = pod
        return newest

    def coordinated(self) -> dict[str, dict[str, Any]]:
        """Those of them that have a coordinator: rank 0's, or without it, more than half of those that trained."""
        group = self.group()
        if "0" in group or not self.regroups:
            return group
        left = {rank: pod for rank, pod in group.items() if pod["metadata"]["name"] in self.composition}
        return left if 2 * len(left) > len(self.composition) else {}

    def group_trains(self) -> bool:
        if self.regroups:
            return len(self.coordinated()) >= max(1, self.job["spec"]["elastic"]["minReplicas"])
        group = self.group()
        if self.servers:
            return len(group) > self.servers and {str(rank) for rank in range(self.servers)} <= group.keys()
        return len(group) == self.size

    def whole(self) -> bool:
        """Every rank that is wanted trains, and no other has a pod."""
        ranks = {pod["metadata"]["labels"]["muster.dev/rank"] for pod in self.pods.values() if not ended(pod)}
        return self.group().keys() == ranks == {str(rank) for rank in range(self.size)}

    def attempt(self) -> int:
        return max((int(p["metadata"]["labels"]["muster.dev/attempt"]) for p in self.group().values()), default=0)

    def observe(self) -> Observed:
        group, reports = self.coordinated(), {}
        if not self.group():
            self.in_place = 0  # with the last agent went the memory of what was not asked in time
        leads = min(group, key=int, default=None)
        leader = group[leads]["metadata"]["uid"] if leads is not None else None
        if leader != self.leader and leads in {None, "0"}:
            self.noticed = []  # a coordinator knows of no restarts before its time
        self.leader = leader
        if leader is None:
            self.composition = frozenset()
        elif self.regroups or leads == "0":
            attempt = max(self.attempt(), self.in_place)
            said = {"attempt": attempt, "phase": "Running" if self.group_trains() else "Waiting", "coordinates": True}
            said["members"] = [{"pod": pod["metadata"]["name"]} for pod in group.values()]
            said["restarts"] = list(self.noticed)
            said["progress"] = {
                "step": self.step,
                "totalSteps": 99,
                "at": self.stepped_at,
                "firstStepAt": self.stepped_at,
            }
            reports[leader] = WorkerReport(state=said, received_at=self.now)
        return Observed(
            resource=copy.deepcopy(self.job),
            pods=tuple(copy.deepcopy(list(self.pods.values()))),
            services=tuple(copy.deepcopy(list(self.services.values()))),
            nodes=self.nodes(),
            reports=reports,
            workloads=self._workloads(),
            flavors={"any": {"metadata": {"name": "any"}, "spec": {}}},
        )

    def _workloads(self) -> tuple[dict[str, Any], ...] | None:
        if not self.in_queue:
            return None
        return () if self.workload is None else (copy.deepcopy(self.workload),)


def ended(pod: Any) -> bool:
    return pod["status"]["phase"] in {"Succeeded", "Failed"}


def version_of(pod: Any) -> str:
    return str(pod["metadata"]["resourceVersion"])
