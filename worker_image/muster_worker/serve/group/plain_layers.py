"""Divided linear layers that compute without DTensor.

DTensor looks at each operation anew to find out who has what, which takes longer than a token takes to compute, and
knows floating point numbers alone. Of a linear layer that is divided by columns or by rows, that is known beforehand:
columns give each rank some of the outputs, and rows add up what all of them make of some of the inputs (Shoeybi et al.
2019, https://arxiv.org/abs/1909.08053).
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
    if style.output_layouts == (_WHOLE,):
        layer.register_forward_hook(partial(_gathered, outputs, mesh.size(), mesh.get_group()))


def _divide_by_rows(layer: nn.Linear, style: Any, mesh: DeviceMesh) -> None:
    bias, mine = layer.bias, _share(layer.in_features, mesh)
    keep_inputs(layer, mine)
    if style.input_layouts == (_WHOLE,):
        layer.register_forward_pre_hook(lambda _layer, inputs: inputs[0][..., mine.start : mine.stop])
    layer.register_forward_hook(partial(_added_up, bias, mesh.get_group()))


def _share(numbers: int, mesh: DeviceMesh) -> range:
    """As DTensor divides: all but the last have as many."""
    each = -(-numbers // mesh.size())
    return range(numbers)[mesh.get_local_rank() * each :][:each]


def _gathered(size: int, ways: int, group: ProcessGroup, _layer: Any, _inputs: Any, outputs: Tensor) -> Tensor:
    """All `size` outputs, the same on all ranks. Collective."""
    mine = functional.pad(outputs, (0, -(-size // ways) - outputs.shape[-1])).contiguous()
    parts = [torch.empty_like(mine) for _ in range(ways)]
    dist.all_gather(parts, mine, group=group)
    return torch.cat(parts, dim=-1)[..., :size]


def _added_up(bias: Tensor | None, group: ProcessGroup, _layer: Any, _inputs: Any, outputs: Tensor) -> Tensor:
    """What the inputs of all ranks make, the same on all. Collective."""
    dist.all_reduce(outputs, group=group)
    return outputs if bias is None else outputs.add_(bias)
