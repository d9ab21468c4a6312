"""The group of all ranks: joined by torchrun's variables, and how its members come to one mind."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist

from muster_worker.train.errors import ConfigurationError, TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")


@contextmanager
def joined(device: torch.device, rank: int, world_size: int) -> Iterator[None]:
    """Inside, `torch.distributed` is up.

    Tensors on the CPU are always reduced by gloo, so that the runtime's own messages need no device.
    """
    avoid_missing_libuv()
    _check_interface()
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"  # XLA devices have a network of their own
    dist.init_process_group(backend, rank=rank, world_size=world_size)
    yield
    # Not in a `finally`: after a failure, peers may be gone, and taking leave of them would hang.
    dist.destroy_process_group()


def _check_interface() -> None:
    """Gloo says of one that is not there only that an address cannot be found."""
    wanted, there = os.environ.get("GLOO_SOCKET_IFNAME"), [name for _, name in socket.if_nameindex()]
    if wanted and wanted not in there:
        raise ConfigurationError(
            f"spec.network.interface: found {wanted}, wanted one that the pod has: {', '.join(sorted(there))}"
        )


def avoid_missing_libuv() -> None:
    """Debian builds torch without libuv, which env:// asks for unless told otherwise."""
    if "USE_LIBUV" in os.environ:
        return
    try:
        dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, use_libuv=True)
    except RuntimeError:
        os.environ["USE_LIBUV"] = "0"


def gathered(answer: Answer, group: dist.ProcessGroup | None = None) -> list[Answer]:
    """Every rank's `answer`, in the order of ranks. Collective."""
    answers: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(answers, answer, group=group)
    return answers


def from_rank(rank: int, answer: Answer) -> Answer:
    """That rank's `answer` on every rank. Collective."""
    answers = [answer]
    dist.broadcast_object_list(answers, src=rank, device=torch.device("cpu"))
    return answers[0]


def hand_on(tree: dict[str, Any], giver: int) -> None:
    """Makes every rank's tree of dicts and lists the giver's: tensors in place, all else replaced. Collective.

    The trees have the same shape, and their tensors the same shapes and types.
    """
    places = list(_places(tree))
    for container, key in places:
        if isinstance(container[key], torch.Tensor):
            dist.broadcast(container[key], src=giver)
    others = [(container, key) for container, key in places if not isinstance(container[key], torch.Tensor)]
    values = from_rank(giver, [container[key] for container, key in others])
    for (container, key), value in zip(others, values, strict=True):
        container[key] = value


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Where its leaves are: each by the dict or list that holds it and the key or index there."""
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        if isinstance(value, (dict, list)):
            yield from _places(value)
        else:
            yield tree, key


def everywhere(work: Callable[[], Answer], group: dist.ProcessGroup | None = None) -> list[Answer]:
    """Does `work` on every rank and gives all the answers; an error on any rank is raised on every rank. Collective.

    Without this, one rank's full disk would leave the others waiting for it.
    """
    answer: Answer | None = None
    fault: TrainingError | None = None
    try:
        answer = work()
    except TrainingError as error:
        fault = error
    outcomes = gathered((answer, fault), group)
    for _, failed in outcomes:
        if failed is not None:
            raise failed
    return [one for one, _ in outcomes]  # type: ignore[misc]


class Left(Exception):  # noqa: N818 - what happened; nothing is wrong
    """Some rank was told to stop, and all know of it: they save their state, that of the last update, and leave."""


def leave_together(*, requested: bool) -> None:
    """Raises Left on every rank where any of them was told to stop. Collective."""
    told = torch.tensor(float(requested))
    dist.all_reduce(told)
    if told:
        raise Left


def of_patience() -> dist.ProcessGroup:
    """All ranks, for what one does while the others wait, for hours if need be. Collective.

    Elsewhere nobody is waited for longer than half an hour. Who is lost is noticed by the agents, here too.
    """
    return dist.new_group(backend="gloo", timeout=timedelta(days=7))


@dataclass(frozen=True)
class Agreed:
    """What the ranks agree on at the end of a step."""

    leave: bool
    """Some rank has been told to stop: all save and leave together."""

    save: bool
    """Rank 0's clock says that a checkpoint is due."""

    loss: float
    """Mean over all samples of the step."""

    seconds: Mapping[int, float] = field(default_factory=dict)
    """What each rank took for its part of the step, where that is told."""


class StepAgreement:
    """One small all-reduce a step, which runs while the backward pass does."""

    def __init__(self) -> None:
        self._rank, self._ranks = dist.get_rank(), dist.get_world_size()
        self._sums = torch.zeros(0, dtype=torch.float64)
        self._work: Any = None

    def start(self, *, leave: bool, save: bool, loss: float, seconds: float) -> None:
        """`loss` is this rank's part of the sum that makes the mean."""
        of_ranks = [0.0] * self._ranks
        of_ranks[self._rank] = seconds
        self._sums = torch.tensor([float(leave), float(save), loss, *of_ranks], dtype=torch.float64)
        self._work = dist.all_reduce(self._sums, async_op=True)

    def wait(self) -> Agreed:
        self._work.wait()
        leave, save, loss, *seconds = self._sums.tolist()
        return Agreed(leave > 0, save > 0, loss, dict(enumerate(seconds)))
