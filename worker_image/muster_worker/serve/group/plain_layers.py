"""Divided linear layers that compute without DTensor.

DTensor looks at each operation anew to find out who has what, which takes longer than a token takes to compute, and
knows floating point numbers alone. Of a linear layer that is divided by columns or by rows, that is known beforehand:
columns give each rank some of the outputs, and rows add up what all of them make of some of the inputs (Shoeybi et al.
2019, https://arxiv.org/abs/1909.08053). Gradients come back the same way: where all ranks have the same, autograd must
not add it up, and where each has a part, it must.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel
from torch.nn import functional

from muster_worker.compress.part import can_have_parts, keep_inputs, keep_outputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor.parallel import ParallelStyle

_WHOLE, _DIVIDED = Replicate(), Shard(-1)


def divide_plainly(model: nn.Module, plan: Mapping[str, ParallelStyle], mesh: DeviceMesh) -> dict[str, ParallelStyle]:
    """Leaves of each layer that can be so what this rank of `mesh` has to compute; gives the plan of all the others."""
    others: dict[str, ParallelStyle] = {}
    for name, style in plan.items():
        layer: Any = model.get_submodule(name)
        if can_have_parts(layer) and _by_columns(style):
            _divide_by_columns(layer, style, mesh)
        elif can_have_parts(layer) and _by_rows(style):
            _divide_by_rows(layer, style, mesh)
        else:
            others[name] = style
    return others


def _by_columns(style: Any) -> bool:
    if type(style) is not ColwiseParallel or not style.use_local_output:
        return False
    return style.input_layouts == (_WHOLE,) and style.output_layouts in ((_DIVIDED,), (_WHOLE,))


def _by_rows(style: Any) -> bool:
    if type(style) is not RowwiseParallel or not style.use_local_output:
        return False
    return style.output_layouts == (_WHOLE,) and style.input_layouts in ((_DIVIDED,), (_WHOLE,))


def _divide_by_columns(layer: nn.Linear, style: Any, mesh: DeviceMesh) -> None:
    outputs = layer.out_features
    keep_outputs(layer, _share(outputs, mesh))
    layer.register_forward_pre_hook(lambda _layer, inputs: _entered(inputs[0], mesh.get_group()))
    if style.output_layouts == (_WHOLE,):
        layer.register_forward_hook(partial(_gathered, outputs, mesh.size(), mesh.get_group()))


def _divide_by_rows(layer: nn.Linear, style: Any, mesh: DeviceMesh) -> None:
    bias, mine = layer.bias, _share(layer.in_features, mesh)
    keep_inputs(layer, mine)
    if style.input_layouts == (_WHOLE,):
        layer.register_forward_pre_hook(
            lambda _layer, inputs: _entered(inputs[0], mesh.get_group())[..., mine.start : mine.stop]
        )
    layer.register_forward_hook(partial(_added_up, bias, mesh.get_group()))


def _share(numbers: int, mesh: DeviceMesh) -> range:
    """As DTensor divides: all but the last have as many."""
    each = -(-numbers // mesh.size())
    return range(numbers)[mesh.get_local_rank() * each :][:each]


def _entered(inputs: Tensor, group: ProcessGroup) -> Tensor:
    """The same; its gradient is made of the parts of all ranks. Collective, backwards."""
    entered: Tensor = _Entered.apply(inputs, group) if torch.is_grad_enabled() else inputs
    return entered


def _gathered(size: int, ways: int, group: ProcessGroup, _layer: Any, _inputs: Any, outputs: Tensor) -> Tensor:
    """All `size` outputs, the same on all ranks. Collective."""
    gathered: Tensor = _Gathered.apply(functional.pad(outputs, (0, -(-size // ways) - outputs.shape[-1])), ways, group)
    return gathered[..., :size]


def _added_up(bias: Tensor | None, group: ProcessGroup, _layer: Any, _inputs: Any, outputs: Tensor) -> Tensor:
    """What the inputs of all ranks make, the same on all. Collective."""
    added: Tensor = _AddedUp.apply(outputs, group)
    return added if bias is None else added.add_(bias)


class _Entered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return inputs.view_as(inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        whole = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(whole, group=ctx.group)
        return whole, None


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mine: Tensor, ways: int, group: ProcessGroup) -> Tensor:
        ctx.rank, ctx.size = group.rank(), mine.shape[-1]
        parts = [torch.empty_like(mine, memory_format=torch.contiguous_format) for _ in range(ways)]
        dist.all_gather(parts, mine.contiguous(), group=group)
        return torch.cat(parts, dim=-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.narrow(-1, ctx.rank * ctx.size, ctx.size), None, None


class _AddedUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, outputs: Tensor, group: ProcessGroup) -> Tensor:
        ctx.mark_dirty(outputs)
        dist.all_reduce(outputs, group=group)
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        del ctx  # each rank's part has the gradient of the sum
        return gradient, None
