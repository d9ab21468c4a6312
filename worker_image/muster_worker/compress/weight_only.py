"""Weights that are stored as small integers, and are floating point numbers again while a layer computes.

Of 8 bits, each output channel has one scale. Of 4 bits, each group of at most GROUP numbers of a channel has its own,
as in Shen et al., "Q-BERT" (2020): by one large weight, a whole channel would lose what 4 bits can tell apart.

A layer does not become faster by this: it makes its weights anew for every batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils.parametrize import register_parametrization

from muster_worker.compress.packing import pack, unpack
from muster_worker.compress.symmetric import symmetric
from muster_worker.compress.weights import weights

if TYPE_CHECKING:
    from muster_worker.compress.weights import Weight

GROUP = 64
"""With a scale in float32, half a bit more for each number."""


def quantize_weights(model: nn.Module, bits: int) -> int:
    """Quantizes every weight in place, of any kind of layer but recurrent ones; gives the number of weights.

    These keep a list of their weights for the library that computes them, past torch's parametrizations.
    """
    found = [weight for weight in weights(model) if not isinstance(weight.places[0][0], nn.RNNBase)]
    for weight in found:
        _quantize(weight, bits)
    return len(found)


def _quantize(weight: Weight, bits: int) -> None:
    first, its_name = weight.places[0]
    parametrization = Quantized(weight.value.shape, bits, channel=int(isinstance(first, _ConvTransposeNd)))
    for module, name in weight.places:
        # No parameters any more: integers are not trained, and an optimizer would take the scales for parameters.
        delattr(module, name)
        module.register_buffer(name, weight.value.detach())
        register_parametrization(module, name, parametrization)
        # Layers that share a weight share its integers.
        module.parametrizations[name].original0 = first.parametrizations[its_name].original0
        module.parametrizations[name].original1 = first.parametrizations[its_name].original1


class Quantized(nn.Module):
    """A parametrization of torch: the layer's state has the integers and the scales, its weight is computed from them.

    Integers are int8 (channels, groups, numbers in a group), or of 4 bits packed to uint8 (bytes,); scales have the
    weight's type (channels, groups, 1).
    """

    def __init__(self, shape: torch.Size, bits: int, channel: int) -> None:
        """`shape`: of the weight. `channel`: which of its dimensions is the output channel."""
        super().__init__()
        self._bits = bits
        self._channel = channel
        self._moved = torch.empty(shape, device="meta").movedim(channel, 0).shape
        self._length = self._moved[1:].numel()
        self._groups = 1 if bits == 8 else -(-self._length // GROUP)
        # Groups of one length, as short as possible: fewer numbers have to be filled in than with full ones first.
        self._grouped = (self._moved[0], self._groups, -(-self._length // self._groups))

    def forward(self, integers: Tensor, scales: Tensor) -> Tensor:
        """The weight."""
        if self._bits == 4:
            integers = unpack(integers, torch.Size(self._grouped).numel()).view(self._grouped)
        # Not converted first: an exported program would then insist on the device that it was exported on.
        rows = (integers * scales).flatten(1)[:, : self._length]
        return rows.view(self._moved).movedim(0, self._channel)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Integers and scales."""
        rows = weight.movedim(self._channel, 0).flatten(1)
        filled = nn.functional.pad(rows, (0, self._grouped[1] * self._grouped[2] - self._length))
        integers, scales = symmetric(filled.view(self._grouped), self._bits)
        return (pack(integers) if self._bits == 4 else integers), scales
