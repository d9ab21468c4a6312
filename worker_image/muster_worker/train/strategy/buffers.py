"""What a model keeps beside its parameters, such as running means: the same for all shares, as DDP has it.

They are made so when a step ends, and not as late as the next begins: what is evaluated, saved and published in between
is then one model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from muster_worker.train.strategy.base import local

if TYPE_CHECKING:
    from torch import nn

MESSAGE = 250 * 2**20
"""Bytes that are sent at once, as DDP does."""


class Buffers:
    """Those that a checkpoint keeps; the others are constants, the same everywhere already."""

    def __init__(self, model: nn.Module, shares: dist.ProcessGroup) -> None:
        """`shares`: the ranks that have the same part of the model."""
        kept = model.state_dict(keep_vars=True)
        # By their places, for a model may put another tensor there.
        self._places = [
            (module, name)
            for prefix, module in model.named_modules()
            for name in module._buffers  # noqa: SLF001 - of this module alone
            if (f"{prefix}.{name}" if prefix else name) in kept
        ]
        self._shares = shares

    def take_the_first_shares(self) -> None:
        """Collective; of a model that keeps none, nothing is sent."""
        if self._places and dist.get_world_size(self._shares) > 1:
            with torch.no_grad():
                tensors = [local(getattr(module, name)) for module, name in self._places]
                dist._broadcast_coalesced(self._shares, tensors, MESSAGE, 0)  # noqa: SLF001 - what DDP sends them by
