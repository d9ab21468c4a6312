"""What every strategy does for the trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.distributed as dist

if TYPE_CHECKING:
    from torch import Tensor, nn


class Strategy:
    """The model among the ranks. Gradients are the mean over the shares of the data, as DDP's are."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        """What is called with this rank's share of a batch to train."""

    def parameters(self) -> list[Any]:
        """What the recipe's optimizer is given: parameters, or groups of them."""
        return list(self.module.parameters())

    def start_batch(self, *, last: bool) -> None:
        """Before a batch. `last`: it is the step's last, after whose backward pass gradients are to be common."""

    def finish_step(self) -> None:
        """After the last backward pass: gradients are common from here on. Collective."""


def local(tensor: Tensor) -> Tensor:
    """What this rank has of a tensor that may be divided: a DTensor, whose import takes a second."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def as_on_rank_0(model: nn.Module) -> None:
    """Gives every rank rank 0's parameters and buffers. Collective."""
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.data, 0)
