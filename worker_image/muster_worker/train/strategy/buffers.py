"""What a model keeps beside its parameters, such as running means: the same on all ranks, as DDP has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as dist

if TYPE_CHECKING:
    from torch import nn


class Buffers:
    """Those that a checkpoint keeps; the others are constants, the same everywhere already."""

    def __init__(self, model: nn.Module) -> None:
        kept = model.state_dict(keep_vars=True)
        self._buffers = [tensor for name, tensor in model.named_buffers() if name in kept]

    def as_on_rank_0(self) -> None:
        """Collective."""
        for tensor in self._buffers:
            dist.broadcast(tensor, 0)
