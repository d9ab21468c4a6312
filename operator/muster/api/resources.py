"""What a container gets of its node, and which of that are GPUs and TPUs."""

from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from muster.api.base import WITHOUT_NULLS, Model
from muster.api.lists import ListType
from muster.api.names import DnsLabel, ObjectName
from muster.api.quantity import Quantity, parse_quantity
from muster.api.rules import Rule

IS_GPU = "(k in ['nvidia.com/gpu', 'amd.com/gpu'] || k.startsWith('nvidia.com/mig-'))"
"""`is_gpu(k)` in CEL."""
TPU = "google.com/tpu"


def is_gpu(resource: str) -> bool:
    """Whether the devices of this resource name are GPUs that NCCL (on AMD: RCCL) can use."""
    return resource in {"nvidia.com/gpu", "amd.com/gpu"} or resource.startswith("nvidia.com/mig-")


def _devices_are_whole(resources: "Resources") -> bool:
    return all(_is_plain_number(amount) for name, amount in resources.limits.items() if "/" in name)


def _is_plain_number(amount: str) -> bool:
    return amount.isascii() and amount.isdigit()


def _requests_fit(resources: "Resources") -> bool:
    limits = resources.limits
    return all(
        parse_quantity(amount) <= parse_quantity(limits[name])
        for name, amount in resources.requests.items()
        if name in limits
    )


def _devices_are_limited(resources: "Resources") -> bool:
    return all(resources.limits.get(name) == amount for name, amount in resources.requests.items() if "/" in name)


# With more than 7 the API server before 1.34 takes the rules about them for too costly.
Amounts = Annotated[dict[str, Quantity], Field(max_length=7), WITHOUT_NULLS]


class ResourceClaim(Model):
    """Devices by Dynamic Resource Allocation: what a pod says in `resourceClaims`, and its container in `resources`.

    What is claimed is written in another object, of the same namespace. How many devices that are is not counted.
    """

    rules = (
        Rule(
            cel="has(self.resourceClaimTemplateName) != has(self.resourceClaimName)",
            holds=lambda claim: (claim.resource_claim_template_name is None) != (claim.resource_claim_name is None),
            message=(
                "write resourceClaimTemplateName for a claim of each pod's own, or resourceClaimName for one that all"
                " share"
            ),
        ),
    )

    name: DnsLabel
    """What the claim is called in the pod, for example `gpus`."""
    resource_claim_template_name: ObjectName | None = None
    """The ResourceClaimTemplate of which each pod gets a claim of its own."""
    resource_claim_name: ObjectName | None = None
    """The ResourceClaim that all pods share."""
    request: DnsLabel | None = None
    """Which of the requests in the claim is the container's. Absent: all."""


class Resources(Model):
    """What one pod's worker container gets of the node it runs on.

    The same as `resources` of any container in Kubernetes. Devices such as GPUs are asked for in `limits`. Muster
    makes no pod before the cluster has room for all that are to start together.
    """

    rules = (
        Rule(
            cel=(
                "!has(self.limits) || self.limits.all(k, !k.contains('/') ||"
                " type(self.limits[k]) == int || self.limits[k].matches('^[0-9]+$'))"
            ),
            holds=_devices_are_whole,
            message="devices such as nvidia.com/gpu come in whole numbers: write 1, 2, ...",
            at=".limits",
        ),
        Rule(
            cel=(
                "!has(self.limits) || !has(self.requests) || self.requests.all(k, !(k in self.limits) ||"
                " quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k]))) <= 0)"
            ),
            holds=_requests_fit,
            message="no request may be above its limit: lower the request or raise the limit",
            at=".requests",
        ),
        Rule(
            cel=(
                "!has(self.requests) || self.requests.all(k, !k.contains('/') || has(self.limits)"
                " && k in self.limits && string(self.limits[k]) == string(self.requests[k]))"
            ),
            holds=_devices_are_limited,
            message="devices such as nvidia.com/gpu are asked for in limits: write them there alone",
            at=".requests",
        ),
    )

    limits: Amounts = Field(default_factory=dict)
    """The most that the container may use, for example `{cpu: "4", memory: 8Gi, nvidia.com/gpu: 1}`.

    Also what is asked for, for each resource that `requests` does not name.
    """
    requests: Amounts = Field(default_factory=dict)
    """What the node must have free, where that is less than the limit, for example `{cpu: 500m, memory: 2Gi}`."""
    claims: Annotated[tuple[ResourceClaim, ...], Field(max_length=8), ListType(keys=("name",))] | None = None
    """Devices of which a cluster knows more than their number: `[{name: gpus, resourceClaimTemplateName: two-gpus}]`.

    That is Dynamic Resource Allocation, of Kubernetes 1.34 and later. Muster does not count these devices: jobs that
    claim some start one at a time, and one that lacks some after a minute is taken back and tries again later.
    """

    def amounts(self, keep: Callable[[str], bool] = lambda _: True) -> dict[str, dict[str, str]]:
        """Return the limits and requests of the resources to keep, by their names, as a container writes them."""
        given = {"limits": self.limits, "requests": self.requests}
        kept = {kind: {name: one for name, one in said.items() if keep(name)} for kind, said in given.items()}
        return {kind: said for kind, said in kept.items() if said}

    @property
    def gpus(self) -> int:
        """How many GPUs one pod asks for."""
        return int(sum(parse_quantity(amount) for name, amount in self.limits.items() if is_gpu(name)))

    @property
    def tpus(self) -> int:
        """How many TPU chips one pod asks for."""
        return int(parse_quantity(self.limits.get(TPU, "0")))

    @property
    def accelerators(self) -> int:
        """How many GPUs and TPUs one pod asks for."""
        return self.gpus + self.tpus
