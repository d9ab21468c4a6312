"""Every rank has the whole model on an XLA device and its own share of the data; gradients are averaged by all-reduce.

Not by torch's DistributedDataParallel, which fills buckets in an order that it learns in the first steps, each another
program to compile, and which sends a rank's buffers by a number that is not the device's.

A step is two programs. The first, up to the gradients, is each rank's own: shares differ by a sample, and what devices
do together must be the same program on all. It also ends before a rank waits for others, so that a slow one is seen.
The second adds the gradients up and updates the parameters, whose shapes are the same everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from muster_worker.train import xla
from muster_worker.train.strategy.base import Batch, Strategy, check_reached

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from muster_worker.train.precision import Precision
    from muster_worker.train.strategy.layout import Layout


class ReplicatedOnXla(Strategy):
    def __init__(self, layout: Layout, model: nn.Module, device: torch.device) -> None:
        """All ranks have made the same `model` already."""
        super().__init__(xla.moved(model, device))
        self._ranks = layout.data
        self._losses: list[tuple[Callable[[float], None], Tensor]] = []
        kept = model.state_dict(keep_vars=True)
        self._buffers = [tensor for name, tensor in model.named_buffers() if name in kept]
        # A tensor, not a number: as 0 or 1 in a program it would make that another one on the first rank.
        self._is_first = torch.tensor(layout.rank == 0, device=device)

    def compute(self, batch: Batch, precision: Precision, told: Callable[[float], None]) -> None:
        with precision.forward():
            loss = batch.loss(self.module(*batch.inputs), batch.target)
        precision.backward(loss * batch.weight)
        # Asked for now, the loss would be a program of its own, which the backward pass would do a second time.
        self._losses.append((told, loss.detach()))

    def finish_step(self) -> None:
        xla.carry_out()
        for told, loss in self._losses:
            told(loss.item())
        self._losses.clear()
        # Before the second program, which would be another one on a rank that has other gradients.
        check_reached(self.module, {one for one in self.module.parameters() if one.grad is not None})
        xla.add_up(self.gradients(), scale=1 / self._ranks)
        self._take_buffers_of_the_first()

    def _take_buffers_of_the_first(self) -> None:
        """Such as running means, which each rank has made of its own share: all others add zeros to them."""
        sums = [torch.where(self._is_first, _as_numbers(tensor), 0) for tensor in self._buffers]
        if sums:
            xla.add_up(sums)
        for tensor, total in zip(self._buffers, sums, strict=True):
            tensor.copy_(total)

    def gradient_norm(self) -> float:
        """Reading a number is a program, and the update another: neither is to add up the gradients once more."""
        xla.carry_out()
        return super().gradient_norm()

    def finish_update(self) -> None:
        xla.carry_out()


def _as_numbers(tensor: Tensor) -> Tensor:
    """As numbers that devices can add up, which yes and no are not."""
    return tensor.to(torch.int32) if tensor.dtype == torch.bool else tensor
