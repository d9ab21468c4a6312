"""Every rank has the whole model and its own share of the data; gradients are averaged by all-reduce."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from muster_worker.train.strategy.base import Strategy, check_reached
from muster_worker.train.strategy.buffers import Buffers

if TYPE_CHECKING:
    from torch import Tensor, nn


class Replicated(Strategy):
    """By torch's DistributedDataParallel, which sends gradients while the backward pass still goes on."""

    def __init__(self, model: nn.Module) -> None:
        self._replica = DistributedDataParallel(model, gradient_as_bucket_view=True)
        # Not as an argument, by which the ranks would not begin with rank 0's either.
        self._replica.broadcast_buffers = False
        self._buffers = Buffers(model, dist.group.WORLD)
        self._reached: set[Tensor] = set()
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._reached.add)
        super().__init__(self._replica)

    def evaluated(self) -> nn.Module:
        """Without the messages of DDP, for which all ranks would have to compute as often."""
        whole: nn.Module = self._replica.module
        return whole

    def start_batch(self, *, last: bool) -> None:
        self._replica.require_backward_grad_sync = last  # what its no_sync() sets
        self._reached.clear()

    def finish_step(self) -> None:
        """By the last batch alone: DDP sends nothing of what that has not reached, whatever others have added to it."""
        check_reached(self._replica.module, self._reached)
        self._buffers.take_the_first_shares()
