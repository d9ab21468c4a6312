"""Gradients that are averaged over the shares once all are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from muster_worker.train.strategy.base import Strategy, local, reached
from muster_worker.train.strategy.buffers import Buffers

if TYPE_CHECKING:
    from torch import Tensor, nn


class Averaged(Strategy):
    """For parts of a model that DDP does not know to handle."""

    def __init__(self, module: nn.Module, shares: dist.ProcessGroup) -> None:
        """`shares`: the ranks that have the same part of the model, each of which computes another share."""
        super().__init__(module)
        self._shares = shares
        self._buffers = Buffers(module, shares)

    def finish_step(self) -> None:
        if dist.get_world_size(self._shares) > 1:
            self._fill_in_gradients()
            average([local(one.grad) for one in self.module.parameters() if one.grad is not None], self._shares)
        self._buffers.take_the_first_shares()

    def _fill_in_gradients(self) -> None:
        """Zeros, where another share has reached a parameter that this one has not: all are to send the same."""
        for parameter, shares in zip(self.module.parameters(), reached(self.module, self._shares), strict=True):
            if shares and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)


def average(tensors: list[Tensor], group: dist.ProcessGroup) -> None:
    """In place, over the group, in one message for each type of numbers. Collective."""
    for dtype in sorted({tensor.dtype for tensor in tensors}, key=str):
        alike = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = _flatten_dense_tensors(alike)
        dist.all_reduce(flat, group=group)
        flat /= dist.get_world_size(group)
        for tensor, mean in zip(alike, _unflatten_dense_tensors(flat, alike), strict=True):
            tensor.copy_(mean)
