"""Every rank has the whole model and its own share of the data; gradients are averaged by all-reduce."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from muster_worker.train.errors import ConfigurationError
from muster_worker.train.strategy.base import Strategy
from muster_worker.train.strategy.buffers import Buffers
from muster_worker.train.strategy.layout import FIELD

if TYPE_CHECKING:
    from torch import nn


class Replicated(Strategy):
    """By torch's DistributedDataParallel, which sends gradients while the backward pass still goes on."""

    def __init__(self, model: nn.Module) -> None:
        self._replica = DistributedDataParallel(model, gradient_as_bucket_view=True)
        # Not as an argument, by which the ranks would not begin with rank 0's either.
        self._replica.broadcast_buffers = False
        self._buffers = Buffers(model, dist.group.WORLD)
        super().__init__(self._replica)

    def evaluated(self) -> nn.Module:
        """Without the messages of DDP, for which all ranks would have to compute as often."""
        whole: nn.Module = self._replica.module
        return whole

    def start_batch(self, *, last: bool) -> None:
        self._replica.require_backward_grad_sync = last  # what its no_sync() sets

    def finish_step(self) -> None:
        self._check_gradients()
        self._buffers.take_the_first_shares()

    def _check_gradients(self) -> None:
        """Raises ConfigurationError. DDP would refuse the next step, and advise what no recipe can do."""
        for name, parameter in self._replica.module.named_parameters():
            if parameter.requires_grad and parameter.grad is None:
                raise ConfigurationError(
                    f"{FIELD}.type: found ddp, with which each step has to reach all parameters that are trained, but"
                    f" it has not reached {name}: wanted requires_grad_(False) for what is not to be trained, or type"
                    " parameterServer"
                )
