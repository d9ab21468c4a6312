"""What the machines and the network between them can do, looked at before the first step.

Measured is what training will use: products of matrices on the rank's device, and messages by the backend of that
device between the first ranks of the pods, each with both of its neighbours. The better of the two counts, so that no
pod is blamed for the other one's node. Workers of parameter servers exchange messages with these (`client.py` there).
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from muster_worker.train.device import XLA, carry_out
from muster_worker.train.process_group import gathered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster_worker.train.environment import Environment

_SIZE, _PRODUCTS = 384, 3
"""Rows of the matrices, and how often they are multiplied: a hundredth of a second on a slow core."""
MESSAGE, MESSAGES = 4 << 20, 2
"""Bytes sent in each direction at once, and how often."""
ROUND_TRIPS = 5
_TOLD = 10
"""Pods that are told of, of those that are worst by one figure."""


@dataclass(frozen=True, slots=True)
class Link:
    """Between two pods. `latency`: seconds there and back; `bandwidth`: bytes a second, both directions together."""

    latency: float
    bandwidth: float


def preflight(environment: Environment, device: torch.device) -> list[dict[str, Any]]:
    """For the first rank of each pod: `rank`, `flops` a second and, among several, `latency` and `bandwidth`.

    Of many pods, those that are worst by any of these. The same on all ranks. Collective.
    """
    flops = flops_of(device) if environment.local_rank == 0 else 0
    pods = [rank for rank, first in enumerate(gathered(environment.local_rank == 0)) if first]
    # What is between TPUs is not of the pod: the network that is measured is the one between CPUs.
    links = _links(pods, environment.rank, torch.device("cpu") if device.type == XLA else device)
    everybody = gathered(figures(environment.rank, flops, links))
    return notable([everybody[rank] for rank in pods])


def figures(rank: int, flops: int, links: Sequence[Link]) -> dict[str, Any]:
    """Of one rank: `rank`, `flops` and, where it has links, `latency` and `bandwidth` of the better ones."""
    found: dict[str, Any] = {"rank": rank, "flops": flops}
    if links:
        found["latency"] = round(min(link.latency for link in links), 6)
        found["bandwidth"] = round(max(link.bandwidth for link in links))
    return found


def notable(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that are worst by one figure: of ten or fewer, all of them."""
    worst: set[int] = set()
    for better in (lambda one: one["flops"], lambda one: one.get("bandwidth", 0), lambda one: -one.get("latency", 0)):
        worst |= {one["rank"] for one in sorted(found, key=better)[:_TOLD]}
    return [one for one in found if one["rank"] in worst]


def flops_of(device: torch.device) -> int:
    """Operations of floating point numbers a second, in products of matrices."""
    matrix = torch.full((_SIZE, _SIZE), 1 / _SIZE, device=device)
    best = float("inf")
    for _ in range(1 + _PRODUCTS):  # the first one loads what multiplies
        began = time.perf_counter()
        matrix = matrix @ matrix
        carry_out(device)
        matrix[0, 0].item()  # a GPU computes by itself, until its result is asked for
        best = min(best, time.perf_counter() - began)
    return round(2 * _SIZE**3 / best)


def _links(pods: list[int], rank: int, device: torch.device) -> list[Link]:
    """Those of this rank, measured in turns, so that nobody is in two at once. Collective."""
    pairs = list(itertools.pairwise(pods))
    ring = [(pods[-1], pods[0])] if len(pods) > 2 else []
    # In a ring of an odd number, the pair that closes it has a turn of its own.
    turns = (pairs[::2], pairs[1::2] + (ring if len(pods) % 2 == 0 else []), ring if len(pods) % 2 else [])
    links = []
    dist.all_reduce(torch.zeros(1, device=device))  # NCCL's first message has to be everybody's
    for turn in turns:
        gathered(None)
        mine = next((pair for pair in turn if rank in pair), None)
        if mine is not None:
            links.append(_measured(mine[0] if mine[1] == rank else mine[1], device))
    return links


def _measured(peer: int, device: torch.device) -> Link:
    _exchange(peer, torch.zeros(1, device=device))  # connects
    latency = min(_exchange(peer, torch.zeros(1, device=device)) for _ in range(ROUND_TRIPS))
    message = torch.zeros(MESSAGE // 4, device=device)
    seconds = min(_exchange(peer, message) for _ in range(MESSAGES))
    return Link(latency, 2 * MESSAGE / seconds)


def _exchange(peer: int, message: torch.Tensor) -> float:
    """Sends the message and receives one as large; gives the seconds that both took."""
    answer = torch.empty_like(message)
    began = time.perf_counter()
    works = dist.batch_isend_irecv([dist.P2POp(dist.isend, message, peer), dist.P2POp(dist.irecv, answer, peer)])
    for work in works:
        work.wait()
    answer[-1].item()
    return time.perf_counter() - began
