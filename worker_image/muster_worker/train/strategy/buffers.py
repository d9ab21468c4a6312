"""What a model keeps beside its parameters, such as running means: the same for all shares, as DDP has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as dist

if TYPE_CHECKING:
    from torch import nn


class Buffers:
    """Those that a checkpoint keeps; the others are constants, the same everywhere already."""

    def __init__(self, model: nn.Module, shares: dist.ProcessGroup) -> None:
        """`shares`: the ranks that have the same part of the model."""
        kept = model.state_dict(keep_vars=True)
        self._buffers = [tensor for name, tensor in model.named_buffers() if name in kept]
        self._shares = shares

    def as_of_the_first_share(self) -> None:
        """Collective."""
        for tensor in self._buffers:
            dist.broadcast(tensor, group=self._shares, group_src=0)
