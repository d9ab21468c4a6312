"""Parameters, gradients and the optimizer's state are divided among the ranks; a layer is whole only while it computes.

ZeRO's third stage (Rajbhandari et al. 2020) by torch's FSDP2. Each item of the model's lists of layers (ModuleList,
Sequential) is gathered and let go by itself, and what remains with the whole. So are the smallest items: each would
cost three messages a step, and save no memory to speak of. And so are those that share a parameter with other layers.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

from muster_worker.train.errors import ConfigurationError
from muster_worker.train.strategy.base import Strategy, places, reached
from muster_worker.train.strategy.buffers import Buffers
from muster_worker.train.strategy.layout import FIELD
from muster_worker.train.strategy.tensor import divided

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from muster_worker.train.recipe import Recipe
    from muster_worker.train.strategy.layout import Layout


SMALL = 0.1
"""Of the parameters of the largest layer: those gathered with the whole have no more, all together."""


class FullySharded(Strategy):
    """Over the data ways; with tensor ways, each rank has its part of a part."""

    def __init__(self, layout: Layout, recipe: Recipe, model: nn.Module, device: torch.device) -> None:
        mesh = divided(layout, recipe, model, model, device)
        for layer in apart(model):
            fully_shard(layer, mesh=mesh["data"])
        self._sharded = fully_shard(model, mesh=mesh["data"])
        self._shares = mesh.get_group("data")
        self._buffers = Buffers(model, self._shares)
        super().__init__(self._sharded)

    def start_batch(self, *, last: bool) -> None:
        self._sharded.set_requires_gradient_sync(last)

    def finish_step(self) -> None:
        self._check_gradients()
        self._buffers.take_the_first_shares()

    def _check_gradients(self) -> None:
        """Raises ConfigurationError where ranks have reached different parameters: FSDP has added up whatever came."""
        ranks = dist.get_world_size(self._shares)
        counts = zip(self.module.named_parameters(), reached(self.module, self._shares), strict=True)
        for name in (name for (name, _), count in counts if 0 < count < ranks):
            raise ConfigurationError(
                f"{FIELD}.type: found fsdp, with which all processes have to reach the same parameters in a step, but"
                f" {name} some have not: wanted a model that calls the same layers whatever the samples are, or type"
                " parameterServer"
            )


def apart(model: nn.Module) -> list[nn.Module]:
    """The outermost items of lists of layers, but for the smallest, and for those that share a parameter."""
    shared = {one for one, names in places(model).items() if len(names) > 1}
    sizes = {
        layer: sum(one.numel() for one in layer.parameters())
        for layer in _items(model)
        if shared.isdisjoint(layer.parameters())
    }
    most = SMALL * max(sizes.values(), default=0)
    upwards = sorted(sizes, key=sizes.__getitem__)
    together = itertools.accumulate(sizes[layer] for layer in upwards)
    small = {layer for layer, size in zip(upwards, together, strict=True) if size <= most}
    return [layer for layer in sizes if layer not in small]


def _items(model: nn.Module) -> Iterator[nn.Module]:
    for child in model.children():
        if isinstance(model, (nn.ModuleList, nn.Sequential)) and not isinstance(child, (nn.ModuleList, nn.Sequential)):
            yield child
        else:
            yield from _items(child)
