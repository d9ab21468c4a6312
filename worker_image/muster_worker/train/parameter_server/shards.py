"""Which server has which tensors. Pure arithmetic, the same on every rank.

Tensors are not cut, so that an optimizer that looks at whole ones (Adafactor, LAMB) computes what it does elsewhere.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from muster_worker.train.errors import ConfigurationError
from muster_worker.train.strategy.layout import FIELD

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Part:
    """What one server has, by the names of the whole model, in the order in which it is sent."""

    parameters: tuple[str, ...]
    buffers: tuple[str, ...] = ()
    """Those that a checkpoint keeps; all are the first server's."""


def parts_of(model: nn.Module, servers: int) -> tuple[Part, ...]:
    """One for each server, of about as many bytes: the largest first, each to whom has the least.

    Raises ConfigurationError where a server would have nothing.
    """
    parameters = dict(model.named_parameters())
    if servers > len(parameters):
        raise ConfigurationError(
            f"{FIELD}.parameterServers: found {servers}, wanted at most {len(parameters)}: so many parameters has the"
            " recipe's model"
        )
    names: list[list[str]] = [[] for _ in range(servers)]
    sizes = [0] * servers
    for name, parameter in sorted(parameters.items(), key=lambda item: (-item[1].nbytes, item[0])):
        least = sizes.index(min(sizes))
        names[least].append(name)
        sizes[least] += parameter.nbytes
    kept = model.state_dict(keep_vars=True)
    buffers = tuple(name for name, _ in model.named_buffers() if name in kept)
    return tuple(Part(tuple(mine), () if number else buffers) for number, mine in enumerate(names))


def tensors_of(model: nn.Module, part: Part) -> tuple[list[nn.Parameter], list[Tensor]]:
    """The parameters and the buffers of a part."""
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    return [parameters[name] for name in part.parameters], [buffers[name] for name in part.buffers]


def fingerprint(model: nn.Module, parts: tuple[Part, ...]) -> str:
    """What two ranks agree on when each can read what the other sends."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    told = [
        [(name, str(tensors[name].dtype), tuple(tensors[name].shape)) for name in (*part.parameters, *part.buffers)]
        for part in parts
    ]
    return hashlib.sha256(repr(told).encode()).hexdigest()
