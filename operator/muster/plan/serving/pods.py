"""What a deployment is made of: Services, a disruption budget, and the pods of its groups. Builders only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.plan import claims
from muster.plan.ownership import owner
from muster.plan.pod_parts import hardened_pod, keep_off
from muster.plan.pods import ATTEMPT, RANK
from muster.plan.serving import identity, spread
from muster.plan.serving.containers import beside, container
from muster.plan.serving.reachability import GATE
from muster.plan.serving.runtimes.torch import GROUP_PORT
from muster.plan.strategic_merge import merge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster.api import ModelDeployment, ModelDeploymentSpec
    from muster.plan.model import Manifest
    from muster.plan.serving.revisions import Revision

LEAVING = 5
"""Seconds that a process may take to end, beyond those that it goes on answering."""


def build_service(deployment: ModelDeployment) -> Manifest:
    """Return the Service, by which clients reach whoever answers."""
    service, metadata = deployment.spec.service, identity.metadata(deployment, deployment.metadata.name)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata | {"labels": metadata["labels"] | identity.everyone(deployment)},
        "spec": {
            "type": service.type,
            "selector": identity.leaders(deployment),
            "ports": [
                {"name": "http", "port": service.port, "protocol": "TCP", "targetPort": "http", "appProtocol": "http"},
                {
                    "name": "grpc",
                    "port": service.grpc_port,
                    "protocol": "TCP",
                    "targetPort": "grpc",
                    "appProtocol": "kubernetes.io/h2c",
                },
            ],
        },
    }


def build_groups_service(deployment: ModelDeployment) -> Manifest:
    """Return the Service by whose names the pods of a group find the first of them, ready or not."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": identity.metadata(deployment, identity.groups_name(deployment)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": identity.leaders(deployment),
            "ports": [{"name": "group", "port": GROUP_PORT, "protocol": "TCP", "targetPort": "group"}],
        },
    }


def build_budget(deployment: ModelDeployment, least: int) -> Manifest:
    """Return the PodDisruptionBudget that leaves at least so many pods."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": identity.metadata(deployment, deployment.metadata.name),
        "spec": {
            "minAvailable": least,
            "selector": {"matchLabels": identity.everyone(deployment)},
            # One that does not answer helps nobody: it must not keep its node from being drained.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def build_group(
    deployment: ModelDeployment, revision: Revision, group: int, attempt: int, shunned: Sequence[str] = ()
) -> tuple[Manifest, ...]:
    """Return the pods that answer for one group together; they are not placed on the nodes `shunned`."""
    return tuple(build_pod(deployment, revision, group, attempt, rank, shunned) for rank in range(revision.size))


def build_pod(
    deployment: ModelDeployment,
    revision: Revision,
    group: int,
    attempt: int,
    rank: int = 0,
    shunned: Sequence[str] = (),
) -> dict[str, Any]:
    """Return one pod of a group, with the user's template laid over it."""
    spec = revision.spec
    server = identity.server_name(deployment, group, attempt)
    labels = (
        identity.labels(deployment)
        | identity.everyone(deployment)
        | identity.role(rank)
        | {
            identity.GROUP: str(group),
            identity.REVISION: revision.name,
            identity.SIZE: str(revision.size),
            RANK: str(rank),
            ATTEMPT: str(attempt),
        }
    )
    own = _pod_spec(deployment, spec, revision)
    own["containers"] = [container(deployment, revision, server, rank)]
    if rank:
        del own["topologySpreadConstraints"]  # they say where groups are, not where the pods of one
    if revision.size > 1:
        own |= {"hostname": identity.name_of_rank(server, rank), "subdomain": identity.groups_name(deployment)}
        own["affinity"] = spread.of_pods(deployment, revision, group, attempt)
    template = merge(merge({"metadata": {}, "spec": own}, beside(deployment, spec)), spec.template)
    _gate(template["spec"])
    keep_off(template["spec"], shunned)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": merge(template["metadata"], {"labels": labels})
        | {
            "name": identity.name_of_rank(server, rank),
            "namespace": deployment.metadata.namespace,
            "ownerReferences": [owner(deployment)],
        },
        "spec": template["spec"],
    }


def url(deployment: ModelDeployment) -> str:
    """Return where the model answers, inside of the cluster."""
    meta, port = deployment.metadata, deployment.spec.service.port
    host = f"{meta.name}.{meta.namespace}.svc" + ("" if port == 80 else f":{port}")
    protocol = "v1" if deployment.spec.runtime == "tensorflowServing" else "v2"
    return f"http://{host}/{protocol}/models/{meta.name}"


def _pod_spec(deployment: ModelDeployment, spec: ModelDeploymentSpec, revision: Revision) -> dict[str, Any]:
    return {
        "restartPolicy": "Always",  # a process that dies comes back by its node alone, with or without an operator
        **hardened_pod(),
        "terminationGracePeriodSeconds": spec.rollout.drain_seconds + LEAVING,
        "topologySpreadConstraints": [spread.of_groups(deployment, spec)],
        "volumes": [
            {"name": "run", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
            {"name": "storage", **_storage(revision)},
            *([{"name": "muster-cache", "hostPath": _kept_at(revision.cache)}] if revision.cache else []),
        ],
        **claims.of_pod(spec.resources),
    }


def _gate(spec: dict[str, Any]) -> None:
    """Add Muster's own readiness gate to those of the template, whose list would take its place.

    What is no list of gates is left as it is: the API server says what is wrong with it.
    """
    gates = spec.get("readinessGates") or []
    if isinstance(gates, list) and all(isinstance(one, dict) for one in gates):
        others = (one for one in gates if one.get("conditionType") != GATE)
        spec["readinessGates"] = [{"conditionType": GATE}, *others]


def _storage(revision: Revision) -> dict[str, Any]:
    """Return where the model is, or is put by whoever fetches it."""
    if "uri" in revision.model:
        return {"emptyDir": {}}
    return {"persistentVolumeClaim": {"claimName": revision.model["claimName"], "readOnly": True}}


def _kept_at(cache: str) -> dict[str, str]:
    """Return the node's directory; where whoever fetches may not write there, he keeps nothing, and says so."""
    return {"path": cache, "type": "DirectoryOrCreate"}
