"""How the ranks hold the model, and how their gradients become one: one strategy, one file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster_worker.train.device import XLA
from muster_worker.train.strategy.layout import PARAMETER_SERVER

if TYPE_CHECKING:
    import torch
    from torch import nn

    from muster_worker.train.recipe import Recipe
    from muster_worker.train.strategy.base import Strategy
    from muster_worker.train.strategy.layout import Layout


def distributed(layout: Layout, recipe: Recipe, model: nn.Module, device: torch.device) -> Strategy:
    """The model, held as the layout says, on the device; `model` itself is changed. Collective.

    Raises ConfigurationError. `model`: on the device, or on the CPU where the layout divides it or XLA
    computes it.
    """
    # Imported when chosen: the parts of torch that divide a model take a second, which the others do not pay.
    if layout.strategy == "fsdp":
        from muster_worker.train.strategy.fsdp import FullySharded  # noqa: PLC0415

        return FullySharded(layout, recipe, model, device)
    if layout.strategy == "tensor":
        from muster_worker.train.strategy.tensor import TensorParallel  # noqa: PLC0415

        return TensorParallel(layout, recipe, model, device)
    if layout.strategy == "pipeline":
        from muster_worker.train.strategy.pipeline import Pipelined  # noqa: PLC0415

        return Pipelined(layout, recipe, model, device)
    if layout.strategy == PARAMETER_SERVER:
        from muster_worker.train.parameter_server.server_trainer import Held  # noqa: PLC0415

        return Held(layout, model)
    if device.type == XLA:
        from muster_worker.train.strategy.xla import ReplicatedOnXla  # noqa: PLC0415

        return ReplicatedOnXla(layout, model, device)
    from muster_worker.train.strategy.ddp import Replicated  # noqa: PLC0415

    return Replicated(model)
