"""Weights that are stored as small integers, and are floating point numbers again while a layer computes.

Of 8 bits, each output channel has one scale. Of 4 bits, each group of at most GROUP numbers of a channel has its own,
as in Shen et al., "Q-BERT" (2020): by one large weight, a whole channel would lose what 4 bits can tell apart.

A layer does not become faster by this: it makes its weights anew for every batch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils.parametrize import register_parametrization

from muster_worker.compress.packing import pack, unpack
from muster_worker.compress.symmetric import symmetric
from muster_worker.compress.weights import weights

if TYPE_CHECKING:
    from typing import Literal

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

    def __init__(self, shape: torch.Size, bits: int, channel: int = 0, group: int | None = None) -> None:
        """`shape`: of the weight. `channel`: which of its dimensions is the output channel. `group`: numbers in one."""
        super().__init__()
        self._bits = bits
        self._channel = channel
        self._moved = torch.empty(shape, device="meta").movedim(channel, 0).shape
        self._length = self._moved[1:].numel()
        if group is None:
            # Groups of one length, as short as possible: fewer numbers have to be filled in than with full ones first.
            group = -(-self._length // (1 if bits == 8 else -(-self._length // GROUP)))
        self._grouped = (self._moved[0], -(-self._length // group), group)

    def forward(self, integers: Tensor, scales: Tensor) -> Tensor:
        """The weight."""
        # Not converted first: an exported program would then insist on the device that it was exported on.
        rows = (self._apart(integers) * scales).flatten(1)[:, : self._length]
        return rows.view(self._moved).movedim(0, self._channel)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Integers and scales."""
        rows = weight.movedim(self._channel, 0).flatten(1)
        integers, scales = symmetric(self._filled(rows), self._bits)
        return self._together(integers), scales

    def part(
        self, integers: Tensor, scales: Tensor, dimension: Literal[0, 1], kept: range
    ) -> tuple[Quantized, Tensor, Tensor]:
        """Of a matrix whose rows are channels, the rows (0) or the columns (1) in `kept`: the very same numbers."""
        channels, group, last = self._moved[0], self._grouped[2], max(kept.start, kept.stop - 1)
        integers = self._apart(integers)
        if dimension == 0:
            part = Quantized(torch.Size((len(kept), self._length)), self._bits, group=group)
            rows = slice(kept.start, kept.stop)
            return part, part._together(integers[rows].clone()), scales[rows].clone()
        # Where groups are cut, as many numbers stay together as can without having two scales.
        shorter = max(1, len(kept)) if kept.start // group == last // group else math.gcd(group, kept.start)
        part = Quantized(torch.Size((channels, len(kept))), self._bits, group=shorter)
        columns = integers.flatten(1)[:, kept.start : kept.stop]
        of_groups = [first // group for first in range(kept.start, kept.stop, shorter)]
        return part, part._together(part._filled(columns)), scales[:, of_groups]

    def _filled(self, rows: Tensor) -> Tensor:
        """(channels, numbers) as groups, with zeros at the end where the last is not full."""
        missing = self._grouped[1] * self._grouped[2] - self._length
        return nn.functional.pad(rows, (0, missing)).view(self._grouped)

    def _apart(self, integers: Tensor) -> Tensor:
        """By groups, each in a byte."""
        if self._bits == 8:
            return integers
        return unpack(integers, torch.Size(self._grouped).numel()).view(self._grouped)

    def _together(self, integers: Tensor) -> Tensor:
        """As they are stored."""
        return pack(integers) if self._bits == 4 else integers
