"""Divided linear layers that compute without DTensor.

DTensor looks at each operation anew to find out who has what, which takes longer than a token takes to compute. Of a
linear layer that was divided by columns or by rows, and whose inputs and outputs are as those styles have them unless
told otherwise, that is known beforehand: by columns nothing is exchanged, by rows the sums are added up (Shoeybi et al.
2019, https://arxiv.org/abs/1909.08053).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from torch.distributed import ProcessGroup
    from torch.distributed.tensor.parallel import ParallelStyle

_LAYOUTS = {ColwiseParallel: (Replicate(), Shard(-1)), RowwiseParallel: (Shard(-1), Replicate())}


def make_plain(model: nn.Module, plan: Mapping[str, ParallelStyle], group: ProcessGroup) -> None:
    """Replaces what layers can be, of those that `parallelize_module` has divided over `group` as planned."""
    for name, style in plan.items():
        layer = model.get_submodule(name)
        parent, _, last = name.rpartition(".")
        if last and isinstance(layer, nn.Linear) and _is_usual(style, layer):
            plain = _Columns(layer) if isinstance(style, ColwiseParallel) else _Rows(layer, group)
            setattr(model.get_submodule(parent), last, plain)


def _is_usual(style: Any, layer: nn.Linear) -> bool:
    if type(layer) is not nn.Linear or type(style) not in _LAYOUTS:
        return False
    given, wanted = _LAYOUTS[type(style)]
    return style.input_layouts == (given,) and style.output_layouts == (wanted,) and style.use_local_output


def _part(tensor: Any) -> nn.Parameter:
    """What this rank has of a divided tensor."""
    return nn.Parameter(tensor.to_local(), requires_grad=False)


class _Columns(nn.Module):
    """Has some of the outputs: (..., in) to (..., out / ranks)."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = _part(layer.weight)
        self.bias = _part(layer.bias) if layer.bias is not None else None

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs, self.weight, self.bias)


class _Rows(_Columns):
    """Is given some of the inputs: (..., in / ranks) to (..., out), the same on all ranks. Collective."""

    def __init__(self, layer: nn.Linear, group: ProcessGroup) -> None:
        super().__init__(layer)
        self._group = group

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = functional.linear(inputs, self.weight)
        dist.all_reduce(outputs, group=self._group)
        return outputs if self.bias is None else outputs.add_(self.bias)
