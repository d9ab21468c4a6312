"""The pods of a job as the policies see them: who is whose, who runs, who is done, who is lost, and why."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muster.plan.pods import Pod, read, worker_status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from muster.plan.model import Manifest

DOMAIN = "muster.dev/topology-domain"


@dataclass(frozen=True, slots=True)
class Member(Pod):
    """One pod of a job.

    `domain` is the value of the topology key that it was made for. `image` is that of its container `worker`.
    `last_words` is the JSON that its agent left as termination message.
    """

    domain: str | None
    image: str | None
    last_words: Mapping[str, Any]

    # A container that something else has put into the pod, such as a proxy, may run on beside a worker that has ended.
    # It is not started again: the pod is as good as ended then, but for its resources.

    @property
    def succeeded(self) -> bool:
        return self.phase == "Succeeded" or (self.phase == "Running" and self.exit_code == 0)

    @property
    def failed(self) -> bool:
        return self.phase == "Failed" or (self.phase == "Running" and self.exit_code not in {None, 0})


def members(pods: Iterable[Manifest], nodes: Mapping[str, Manifest]) -> tuple[Member, ...]:
    """Return the job's pods, by rank and then by attempt."""
    return tuple(sorted((_member(pod, nodes) for pod in pods), key=lambda member: (member.rank, member.attempt)))


def newest(of: Iterable[Member], replicas: int) -> dict[int, Member | None]:
    """Return for every rank of the job the pod of its highest attempt; None where there is no pod."""
    by_rank: dict[int, Member | None] = dict.fromkeys(range(replicas))
    for member in of:
        known = by_rank.get(member.rank)
        if member.rank in by_rank and (known is None or known.attempt < member.attempt):
            by_rank[member.rank] = member
    return by_rank


def _member(pod: Manifest, nodes: Mapping[str, Manifest]) -> Member:
    ended = worker_status(pod).get("state", {}).get("terminated", {})
    return Member(
        **read(pod, nodes),
        domain=pod["metadata"]["labels"].get(DOMAIN),
        image=next((one.get("image") for one in pod["spec"]["containers"] if one["name"] == "worker"), None),
        last_words=_parse(ended.get("message", "")),
    )


def _parse(message: str) -> Mapping[str, Any]:
    """A message that is no JSON object is somebody else's: the worker image may have other entry points."""
    try:
        parsed = json.loads(message)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
