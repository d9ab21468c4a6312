"""Jobs that Kueue admits: `spec.scheduling.queueName`.

Muster is what Kueue calls an external framework: it makes the Workload that stands in the queue, and does to it what
Kueue's own job framework does (pkg/controller/jobframework of sigs.k8s.io/kueue v0.12). No pod is there before
the Workload is admitted. Evicted, the workers save and leave like those of a suspended job; only when none is left is
the quota given back, so that nobody is admitted into room that is still taken. A suspended job has no Workload.

A Workload is made once and never changed: its podSets must not change while it holds quota, and its queue and whether
it is active are left to people. Where it is not known whether there is a Workload (Kueue's definitions are not
there, or not watched yet), what runs goes on.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from muster.plan.conditions import condition, find, is_true, merged
from muster.plan.model import Admission, Delete, Reference, StatusPart
from muster.plan.ownership import owner
from muster.plan.timestamps import to_epoch
from muster.plan.training import identity, servers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from muster.api import TrainingJob
    from muster.plan.model import Manifest
    from muster.plan.training.view import View

GROUP, VERSION = "kueue.x-k8s.io", "v1beta1"
NEEDS = ("Workload", "ResourceFlavor")
FIELD = "spec.scheduling.queueName"

# In Kueue's name, because it must be able to take these fields up again: see `ApplyAdmissionStatus` there.
ADMISSION_OWNER = "kueue-admission"
OWN = "muster"
_OF_ADMISSION = {"QuotaReserved", "Evicted", "Admitted", "Preempted", "Requeued", "DeactivationTarget"}
_KEPT = (
    "accumulatedPastExexcutionTimeSeconds",
    "admissionChecks",
    "requeueState",
    "resourceRequests",
    "schedulingStats",
)


def is_asked(job: TrainingJob) -> bool:
    return job.spec.scheduling.queue_name is not None


def references(job: TrainingJob) -> tuple[Reference, ...]:
    """Return what must be there before the job can stand in its queue."""
    queue = job.spec.scheduling.queue_name
    if queue is None:
        return ()
    return (
        Reference("CustomResourceDefinition", f"workloads.{GROUP}", FIELD, "install Kueue"),
        Reference("LocalQueue", queue, FIELD),
    )


def workload_of(job: TrainingJob, workloads: tuple[Manifest, ...] | None) -> Manifest | None:
    """Return the job's Workload; None where there is none, or it is on its way out."""
    there = (one for one in workloads or () if one["metadata"]["name"] == workload_name(job))
    found = next(there, None)
    return None if found is None or "deletionTimestamp" in found["metadata"] else found


def workload_name(job: TrainingJob) -> str:
    """Return it as Kueue makes it for its own kinds, so that people find it where they look."""
    told = f"TrainingJob\nmuster.dev\n{job.metadata.name}\n{job.metadata.uid}"
    digest = hashlib.sha1(told.encode(), usedforsecurity=False).hexdigest()
    return f"trainingjob-{job.metadata.name}-{digest[:5]}"


def build_workload(job: TrainingJob, build_pod: Callable[[int], Manifest], priority: int | None) -> Manifest:
    """Return what stands in the queue for the job's pods, which `build_pod` makes by rank.

    Each role is a podSet, for which Kueue finds room by itself: parameter servers need no GPU.
    """
    scheduling, before = job.spec.scheduling, servers.count(job)
    sets = ((servers.SERVER, before, 0), (servers.WORKER, job.spec.replicas, before))
    spec: dict[str, Any] = {
        "queueName": scheduling.queue_name,
        "podSets": [
            {"name": name, "count": count, "template": {"spec": build_pod(first)["spec"]}}
            for name, count, first in sets
            if count
        ],
    }
    if scheduling.priority_class_name is not None:
        spec |= {
            "priorityClassSource": "scheduling.k8s.io/priorityclass",
            "priorityClassName": scheduling.priority_class_name,
            "priority": priority or 0,
        }
    labels = {f"{GROUP}/queue-name": scheduling.queue_name, f"{GROUP}/job-uid": job.metadata.uid}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "Workload",
        "metadata": {
            "name": workload_name(job),
            "namespace": job.metadata.namespace,
            "labels": identity.labels(job) | labels,
            "ownerReferences": [owner(job)],
        },
        "spec": spec,
    }


def queued(job: TrainingJob) -> Admission:
    """The Workload is made, and Kueue has not said anything of it."""
    return _not_granted(job, "WaitingForKueue", "Kueue has not looked at it yet")


def granted(view: View) -> Admission | None:
    """Return Kueue's admission of the job; None where it has not admitted it, or is not asked."""
    if view.workload is None or withheld(view) is not None:
        return None
    queue = view.workload["status"]["admission"]["clusterQueue"]
    return Admission(granted=True, reason="Admitted", message=f"Kueue admitted it by ClusterQueue {queue}")


def withheld(view: View) -> Admission | None:
    """Return why no pod of the job may run now; None where that is not Kueue's matter, or it has none against it."""
    if not is_asked(view.job) or view.workloads_unknown:
        return None
    if view.workload is None:
        return _withdrawn(view) if view.admitted or _living(view) else None
    said = _conditions(view.workload)
    evicted = find(said, "Evicted")
    if evicted is not None and evicted["status"] == "True" and is_true(said, "QuotaReserved"):
        return _not_granted(view.job, evicted["reason"], evicted["message"])
    if view.workload["spec"].get("active") is False:
        message = f"deactivated: set spec.active of Workload {view.workload['metadata']['name']} to true"
        return _not_granted(view.job, "Deactivated", message)
    if not is_true(said, "Admitted"):
        return _waits(view.job, view.workload, said)
    missing = _unknown_flavors(view)
    if missing and not view.admitted:
        return _not_granted(view.job, "ResourceFlavorNotFound", f"there is no ResourceFlavor {', '.join(missing)}")
    return None


def placement_is_known(view: View) -> bool:
    """Whether it can be said where the job's pods may go."""
    return not is_asked(view.job) or (view.workload is not None and not _unknown_flavors(view))


def placed(view: View, rank: int, pod: dict[str, Any]) -> dict[str, Any]:
    """Return the pod with what the admission adds to it: where it may go, and what the admission checks ask for."""
    if not is_asked(view.job) or view.workload is None:
        return pod
    metadata, spec = dict(pod["metadata"]), dict(pod["spec"])
    mine = servers.role(view.job, rank)
    flavors = [view.flavors[name].get("spec", {}) for name in _flavors(view.workload, mine) if name in view.flavors]
    for addition in (*map(_of_flavor, flavors), *_of_checks(view.workload, mine)):
        for part in ("labels", "annotations"):
            if addition.get(part):
                metadata[part] = {**addition[part], **metadata.get(part, {})}
        if addition.get("nodeSelector"):
            spec["nodeSelector"] = {**spec.get("nodeSelector", {}), **addition["nodeSelector"]}
        known = spec.get("tolerations", [])
        more = [one for one in addition.get("tolerations") or () if one not in known]
        if more:
            spec["tolerations"] = [*known, *more]
    return pod | {"metadata": metadata, "spec": spec}


def withdrawal(view: View) -> tuple[Delete, ...]:
    """Return the end of a suspended job's place in the queue, once none of its pods takes room."""
    if view.workload is None or _living(view):
        return ()
    meta = view.workload["metadata"]
    return (Delete("Workload", meta["name"], meta["uid"]),)


def reports(view: View, *, over: Manifest | None = None) -> tuple[StatusPart, ...]:
    """Return what Kueue is to be told: that the quota is free again, whether the pods are ready, how the job ended.

    `over` is the condition that says how; as long as some pods may run, it is not told.
    """
    if view.workload is None or is_true(_conditions(view.workload), "Finished"):
        return ()
    if over is not None:
        if _living(view) and view.job.spec.pod_cleanup != "None":
            return ()
        reason = "Succeeded" if over["type"] == "Complete" else "Failed"
        return (_own(view, _condition(view, "Finished", reason, over["message"], holds=True)),)
    ready = _pods_ready(view)
    told = () if ready is None else (_own(view, ready),)
    return told + _release(view)


def _living(view: View) -> bool:
    return any(not member.ended for member in view.members)


def _withdrawn(view: View) -> Admission:
    return _not_granted(view.job, "WorkloadDeleted", "its Workload was deleted, and with it the quota that it had")


def _waits(job: TrainingJob, workload: Manifest, said: list[Manifest]) -> Admission:
    """In Kueue's own words."""
    reserved = find(said, "QuotaReserved")
    if reserved is None:
        return queued(job)
    if reserved["status"] != "True":
        return _not_granted(job, reserved["reason"], reserved["message"])
    checks = workload["status"].get("admissionChecks", [])
    open_checks = [": ".join(filter(None, (f"{one['name']} is {one['state']}", one.get("message")))) for one in checks]
    waits_for = f"; admission checks: {', '.join(open_checks)}" if open_checks else ""
    return _not_granted(job, "QuotaReserved", f"{reserved['message']}{waits_for}")


def _not_granted(job: TrainingJob, reason: str, message: str) -> Admission:
    return Admission(granted=False, reason=reason, message=f"in LocalQueue {job.spec.scheduling.queue_name}: {message}")


def _flavors(workload: Manifest, *sets: str) -> list[str]:
    """Of these podSets."""
    assignments = workload.get("status", {}).get("admission", {}).get("podSetAssignments", [])
    return sorted({name for one in assignments if one["name"] in sets for name in one.get("flavors", {}).values()})


def _unknown_flavors(view: View) -> list[str]:
    return [name for name in _flavors(view.workload or {}, servers.SERVER, servers.WORKER) if name not in view.flavors]


def _of_flavor(spec: Manifest) -> dict[str, Any]:
    return {"nodeSelector": spec.get("nodeLabels"), "tolerations": spec.get("tolerations")}


def _of_checks(workload: Manifest, name: str) -> list[Mapping[str, Any]]:
    checks = workload["status"].get("admissionChecks", [])
    return [one for check in checks for one in check.get("podSetUpdates", []) if one["name"] == name]


def _pods_ready(view: View) -> Manifest | None:
    """Return the changed condition PodsReady; None where what is there is true, or nothing was to be said yet."""
    assert view.workload is not None, "told of a Workload alone"
    before = find(_conditions(view.workload), "PodsReady")
    was_ready = before is not None and before["status"] == "True"
    if withheld(view) is not None:
        if not was_ready:
            return None
        return _condition(view, "PodsReady", "WaitForStart", "the workers have left or are about to", holds=False)
    ready = all(m is not None and (m.succeeded or (m.running and m.ready)) for m in view.workers.values())
    if ready == was_ready or (before is None and not ready):
        return None
    if not ready:
        return _condition(view, "PodsReady", "WaitForRecovery", "a worker is lost and is replaced", holds=False)
    recovered = before is not None and before["reason"] == "WaitForRecovery"
    message = f"all {view.replicas} workers are ready or have succeeded"
    return _condition(view, "PodsReady", "Recovered" if recovered else "Started", message, holds=True)


def _release(view: View) -> tuple[StatusPart, ...]:
    """Return that an evicted job's quota is free, once none of its pods takes room: Kueue waits for just this."""
    assert view.workload is not None, "told of a Workload alone"
    said = _conditions(view.workload)
    evicted = find(said, "Evicted")
    is_evicted = evicted is not None and evicted["status"] == "True"
    if evicted is None or not is_evicted or not is_true(said, "QuotaReserved") or _living(view):
        return ()
    why, message = evicted["reason"], evicted["message"]
    changed = (
        _condition(view, "QuotaReserved", "Pending", message, holds=False),
        _condition(view, "Admitted", "NoReservation", "The workload has no reservation", holds=False),
        # Whoever was preempted stands in line again at once; else Kueue says when.
        _condition(view, "Requeued", why, message, holds=why == "Preempted"),
    )
    before = view.workload["status"]
    status = {name: before[name] for name in _KEPT if name in before}
    admitted = find(said, "Admitted")
    if admitted is not None and admitted["status"] == "True":
        spent = int(view.now - to_epoch(admitted["lastTransitionTime"]))
        past = "accumulatedPastExexcutionTimeSeconds"
        status[past] = before.get(past, 0) + max(0, spent)
    status["conditions"] = [one for one in merged(said, *changed) if one["type"] in _OF_ADMISSION]
    version = {"resourceVersion": view.workload["metadata"]["resourceVersion"]}
    return (StatusPart(_part(view, status, version), ADMISSION_OWNER),)


def _own(view: View, changed: Manifest) -> StatusPart:
    """All that is Muster's of the status: what an owner leaves out is taken away."""
    assert view.workload is not None, "told of a Workload alone"
    mine = [one for one in merged(_conditions(view.workload), changed) if one["type"] in {"PodsReady", "Finished"}]
    return StatusPart(_part(view, {"conditions": mine}, {}), OWN)


def _part(view: View, status: dict[str, Any], precondition: dict[str, str]) -> Manifest:
    assert view.workload is not None, "told of a Workload alone"
    meta = view.workload["metadata"]
    identified = {name: meta[name] for name in ("name", "namespace", "uid")}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "Workload",
        "metadata": identified | precondition,
        "status": status,
    }


def _condition(view: View, kind: str, reason: str, message: str, *, holds: bool) -> Manifest:
    assert view.workload is not None, "told of a Workload alone"
    return condition(
        _conditions(view.workload),
        kind,
        holds=holds,
        reason=reason,
        message=message,
        generation=view.workload["metadata"].get("generation", 1),
        now=view.now,
    )


def _conditions(workload: Manifest) -> list[Manifest]:
    return list(workload.get("status", {}).get("conditions", []))
