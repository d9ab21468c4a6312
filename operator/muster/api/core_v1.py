"""Fields of Kubernetes' own PodSpec and Container that Muster passes on without a look.

They are declared so that the API server compares them when it checks that the template did not change: of fields
that a schema does not name, its CEL sees the number only (unstructuredMap.Equal in k8s.io/apiserver 0.34).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

POD_FIELDS = frozenset({
    "activeDeadlineSeconds", "affinity", "automountServiceAccountToken", "dnsConfig", "dnsPolicy",
    "enableServiceLinks", "hostAliases", "hostIPC", "hostNetwork", "hostPID", "hostUsers", "imagePullSecrets",
    "initContainers", "nodeName", "nodeSelector", "os", "overhead", "preemptionPolicy", "priority",
    "priorityClassName", "readinessGates", "resourceClaims", "resources", "runtimeClassName", "schedulerName",
    "schedulingGates", "securityContext", "serviceAccountName", "setHostnameAsFQDN", "shareProcessNamespace",
    "tolerations", "topologySpreadConstraints",
})  # fmt: skip
CONTAINER_FIELDS = frozenset({
    "envFrom", "image", "imagePullPolicy", "lifecycle", "livenessProbe", "ports", "readinessProbe",
    "resizePolicy", "restartPolicy", "securityContext", "startupProbe", "stdin", "stdinOnce",
    "terminationMessagePath", "terminationMessagePolicy", "tty", "volumeDevices", "workingDir",
})  # fmt: skip


def opaque(fields: Iterable[str]) -> Callable[[dict[str, Any]], None]:
    """Return what adds fields of any form to a schema; null stays, for it removes what Muster would set."""

    def add(schema: dict[str, Any]) -> None:
        anything = {"x-kubernetes-preserve-unknown-fields": True, "nullable": True}
        schema["properties"] |= {name: dict(anything) for name in sorted(fields)}

    return add
