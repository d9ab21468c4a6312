"""Which parameters are compressed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.nn.utils.parametrize import ParametrizationList

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Weight:
    """A parameter, and where it is."""

    value: nn.Parameter
    places: tuple[tuple[nn.Module, str], ...]
    """Every module that has it, with its name there: layers may share one."""


def weights(model: nn.Module) -> list[Weight]:
    """The floating point parameters of two or more dimensions, each once, in the order of the modules.

    Left alone: parameters of fewer dimensions, which are biases and the factors of normalisations. They are one number
    for a whole channel, so that they have few of the bytes, and each error in one is an error in all that the channel
    computes. Left alone, too: what torch's parametrizations compute weights from, for those numbers are no weights.
    """
    places: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        if isinstance(module, ParametrizationList):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() >= 2 and parameter.is_floating_point():
                places.setdefault(parameter, []).append((module, name))
    return [Weight(parameter, tuple(found)) for parameter, found in places.items()]
