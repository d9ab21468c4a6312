"""A model of which this rank has some layers, called by its recipe, which knows of no ranks: so it generates text.

The recipe calls all layers, one after the other. Those of other stages of the pipeline have stand-ins here. The first
layer's gives what the stage before has computed, whatever it is given itself; the one behind this rank's own layers
sends what comes to the next stage. What the recipe makes of the last layer's stand-in, nobody reads.

By gloo here and in the tests; nobody has run it by NCCL, between GPUs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import nn

from muster_worker.train.model_directory import DATATYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from torch.distributed import ProcessGroup

_TYPES = list(DATATYPES)
_DIMENSIONS = 8
"""That what passes from stage to stage may have."""


class _Elsewhere(nn.Module):
    """Gives what it is given."""

    def forward(self, given: Tensor, *others: object, **named: object) -> Tensor:
        del others, named
        return given


class _Arrives(_Elsewhere):
    """Gives what the stage before has sent, which says its type and shape first."""

    def __init__(self, group: ProcessGroup, device: torch.device) -> None:
        super().__init__()
        self._group, self._device = group, device
        self._from = group.rank() - 1

    def forward(self, given: Tensor, *others: object, **named: object) -> Tensor:
        del given, others, named
        kind, dimensions, *lengths = self._received([2 + _DIMENSIONS], torch.int64).tolist()
        return self._received(lengths[:dimensions], _TYPES[kind])

    def _received(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        tensor = torch.empty(*shape, dtype=dtype, device=self._device)
        dist.recv(tensor, group=self._group, group_src=self._from)
        return tensor


class _Leaves(_Elsewhere):
    """Sends what it is given to the next stage."""

    def __init__(self, group: ProcessGroup) -> None:
        super().__init__()
        self._group = group
        self._to = group.rank() + 1

    def forward(self, given: Tensor, *others: object, **named: object) -> Tensor:
        missing = _DIMENSIONS - given.dim()
        said = [_TYPES.index(given.dtype), given.dim(), *given.shape, *[0] * missing]
        for tensor in torch.tensor(said, device=given.device), given.contiguous():
            dist.send(tensor, group=self._group, group_dst=self._to)
        return super().forward(given, *others, **named)


def keep_only(
    mine: Sequence[nn.Module], model: nn.Module, layers: Sequence[nn.Module], group: ProcessGroup, device: torch.device
) -> None:
    """Replaces all `layers` of `model` by stand-ins but `mine`, some that follow each other.

    `group`: of each stage one rank, on `device`.
    """
    names = {module: name for name, module in model.named_modules()}
    first = layers.index(mine[0])
    behind = first + len(mine)
    for number, layer in enumerate(layers):
        if first <= number < behind:
            continue
        stand_in = _Arrives(group, device) if number == 0 else _Leaves(group) if number == behind else _Elsewhere()
        model.set_submodule(names[layer], stand_in)
