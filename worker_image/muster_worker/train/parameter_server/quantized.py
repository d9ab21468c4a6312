"""Gradients in 8 bits on the wire, about a quarter of the bytes, with error feedback.

Each block of values has a scale of its own. What rounding leaves is added to the next gradient that the worker sends,
so that nothing is lost for good, only late (Seide et al. 2014; Karimireddy et al. 2019, arXiv:1901.09847).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from muster_worker.train.errors import ConfigurationError
from muster_worker.train.parameter_server.wire import unpacked
from muster_worker.train.strategy.layout import FIELD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

BLOCK = 256
"""Values that share a scale: its four bytes are a sixty-fourth of theirs."""


def check_real(model: nn.Module) -> None:
    """Raises ConfigurationError where a parameter has complex numbers, of which one half would be lost."""
    for name, parameter in model.named_parameters():
        if parameter.is_complex():
            raise ConfigurationError(
                f"{FIELD}.gradientCompression: found int8, which has no complex numbers, as {name} has, wanted none"
            )


class ErrorFeedback:
    """What a worker owes the servers, by the names of parameters."""

    def __init__(self) -> None:
        self._owed: dict[str, Tensor] = {}

    def encoded(self, names: Sequence[str], gradients: Sequence[Tensor]) -> list[Tensor]:
        """What `decoded` reads, to be packed. Both lists have the same order."""
        sent: list[Tensor] = []
        for name, gradient in zip(names, gradients, strict=True):
            wanted = gradient.detach().cpu().float()
            if name in self._owed:
                wanted = wanted + self._owed[name]
            scales, values = _quantized(wanted)
            self._owed[name] = wanted - _restored(scales, values, wanted)
            sent += [scales, values]
        return sent

    def forget(self) -> None:
        """The servers went back to a checkpoint: what is owed was for parameters that are no more."""
        self._owed.clear()


def decoded(payload: bytearray | memoryview, like: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of the shapes and types of `like`, on the CPU."""
    sent = unpacked(payload, [part for tensor in like for part in _places(tensor)])
    return [
        _restored(scales, values, tensor).to(tensor.dtype)
        for scales, values, tensor in zip(sent[::2], sent[1::2], like, strict=True)
    ]


def _places(tensor: Tensor) -> tuple[Tensor, Tensor]:
    count = tensor.numel()
    return torch.empty(-(-count // BLOCK), dtype=torch.float32), torch.empty(count, dtype=torch.int8)


def _quantized(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Scales (float32, one a block) and values (int8, one a number)."""
    blocks = _blocks(tensor.reshape(-1))
    scales = blocks.abs().amax(dim=1) / 127
    values = (blocks / scales.clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(1)).round()
    return scales, values.to(torch.int8).reshape(-1)[: tensor.numel()]


def _restored(scales: Tensor, values: Tensor, like: Tensor) -> Tensor:
    blocks = _blocks(values).float() * scales.unsqueeze(1)
    return blocks.reshape(-1)[: like.numel()].view(like.shape)


def _blocks(flat: Tensor) -> Tensor:
    return functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
