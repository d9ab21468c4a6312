"""Layers that compute with the mean and the deviation of a batch, which one number alone has not."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch.nn import SyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


@contextmanager
def of_one_number(model: nn.Module) -> Iterator[dict[str, nn.Module]]:
    """Those layers, by their names, that get one number of each channel while one sample passes inside.

    Their batch in training has to have two samples, or torch refuses it.
    """
    found: dict[str, nn.Module] = {}
    layers = {
        layer: name
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and not isinstance(layer, SyncBatchNorm)  # which looks at all ranks' samples
    }

    def look(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs[0].numel() == inputs[0].shape[1]:
            found[layers[layer]] = layer

    looks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        yield found
    finally:
        for one in looks:
            one.remove()
