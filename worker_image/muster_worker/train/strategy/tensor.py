"""Each layer is divided among ranks that compute the same samples together; shares of the data are averaged over.

Megatron's way (Shoeybi et al. 2019) by torch's DTensor: the recipe's `tensor_plan` says how each module is divided.
What it does not name, every rank has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import parallelize_module

from muster_worker.train.errors import ConfigurationError
from muster_worker.train.strategy.base import Strategy, as_on_rank_0, local
from muster_worker.train.strategy.buffers import Buffers
from muster_worker.train.strategy.layout import FIELD

if TYPE_CHECKING:
    from torch import nn
    from torch.distributed.device_mesh import DeviceMesh

    from muster_worker.train.recipe import Recipe
    from muster_worker.train.strategy.layout import Layout


class TensorParallel(Strategy):
    """The data ways have the same parts, and average their gradients."""

    def __init__(self, layout: Layout, recipe: Recipe, model: nn.Module, device: torch.device) -> None:
        as_on_rank_0(model)
        mesh = init_device_mesh(device.type, (layout.data, layout.tensor), mesh_dim_names=("data", "tensor"))
        if layout.tensor > 1:
            divide_layers(model, recipe, mesh["tensor"])
        self._data = mesh.get_group("data")
        self._buffers = Buffers(model)
        super().__init__(model)

    def parameters(self) -> list[Any]:
        """Two groups: an optimizer that takes many at once does not take divided and whole ones together."""
        groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for parameter in self.module.parameters():
            groups[isinstance(parameter, DTensor)].append(parameter)
        return [{"params": parameters} for parameters in groups.values() if parameters]

    def start_batch(self, *, last: bool) -> None:
        del last
        self._buffers.as_on_rank_0()

    def finish_step(self) -> None:
        if dist.get_world_size(self._data) > 1:
            average([local(one.grad) for one in self.module.parameters() if one.grad is not None], self._data)


def divide_layers(model: nn.Module, recipe: Recipe, mesh: DeviceMesh) -> None:
    """As the recipe's plan says; raises ConfigurationError where it has none."""
    plan = recipe.tensor_plan(model)
    if plan is None:
        raise ConfigurationError(
            f"{FIELD}: found {mesh.size()} ways to divide a layer, wanted a recipe that says how:"
            f" {type(recipe).__name__} has no tensor_plan"
        )
    parallelize_module(model, mesh, dict(plan))


def average(tensors: list[torch.Tensor], group: dist.ProcessGroup) -> None:
    """In place, over the group, in one message for each type of numbers. Collective."""
    for dtype in sorted({tensor.dtype for tensor in tensors}, key=str):
        alike = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = _flatten_dense_tensors(alike)
        dist.all_reduce(flat, group=group)
        flat /= dist.get_world_size(group)
        for tensor, mean in zip(alike, _unflatten_dense_tensors(flat, alike), strict=True):
            tensor.copy_(mean)
