"""Each layer is divided among ranks that compute the same samples together; shares of the data are averaged over.

Megatron's way (Shoeybi et al. 2019) by torch's DTensor: the recipe's `tensor_plan` says how each module is divided.
What it does not name, every rank has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.distributed.tensor.parallel import parallelize_module

from muster_worker.parallel.layers import plan_of
from muster_worker.train.errors import ConfigurationError
from muster_worker.train.strategy.averaged import Averaged
from muster_worker.train.strategy.base import as_on_rank_0, mesh_of, places
from muster_worker.train.strategy.layout import FIELD

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.distributed.device_mesh import DeviceMesh

    from muster_worker.train.recipe import Recipe
    from muster_worker.train.strategy.layout import Layout


class TensorParallel(Averaged):
    """The shares have the same parts, and average their gradients."""

    def __init__(self, layout: Layout, recipe: Recipe, model: nn.Module, device: torch.device) -> None:
        mesh = divided(layout, recipe, model, model, device)
        super().__init__(model.to(device), mesh.get_group("data"))


def divided(layout: Layout, recipe: Recipe, model: nn.Module, part: nn.Module, device: torch.device) -> DeviceMesh:
    """The ranks by their ways, once they have rank 0's parameters, and the layers in `part` are divided. Collective.

    Raises ConfigurationError before that: a rank that ended later would take others with it before they have said why.
    """
    plan = plan_of(recipe, model, part, layout.tensor, f"{FIELD}.mesh") if layout.tensor > 1 else {}
    _check_apart(model, set(plan))
    as_on_rank_0(model)
    mesh = mesh_of(layout, device.type)
    if plan:
        parallelize_module(model, mesh["tensor"], plan)
    return mesh


def _check_apart(model: nn.Module, divided_layers: set[str]) -> None:
    """Raises ConfigurationError where one of these shares a parameter: once divided, it would have one of its own."""
    for names in places(model).values():
        layers = {name.rpartition(".")[0] for name in names}
        if len(names) > 1 and not layers.isdisjoint(divided_layers):
            raise ConfigurationError(
                f"{FIELD}.mesh.tensor: the recipe's tensor_plan divides what layers share, {' and '.join(names)},"
                " wanted a plan without them, or layers that share no parameter"
            )
