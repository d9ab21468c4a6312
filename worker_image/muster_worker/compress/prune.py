"""Pruning by magnitude: the smallest weights of every layer become zero.

Zeros alone make no file smaller and no computation faster: they are stored and multiplied like any other number. What
they do is to stay zeros when they are quantized, and to let a general compressor, such as gzip, find less to keep.

By layers and not over the whole model, where a layer whose weights are all small would be gone as a whole. The method
is that of Han, Pool, Tran and Dally, "Learning both Weights and Connections for Efficient Neural Networks" (2015),
without the training that follows there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch.nn.utils import prune

from muster_worker.compress.technique import Technique
from muster_worker.compress.weights import weights

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Prune(Technique):
    """`{prune: {fraction: "0.5"}}`."""

    fraction: float = field(metadata={"minimum": 0.01, "maximum": 0.99})
    """Of the weights of each layer, rounded to a whole number of them: how many become zero."""

    def compress(self, model: nn.Module) -> int:
        found = weights(model)
        for weight in found:
            # torch looks at it as one row, which one of another memory format, such as channels_last, is not.
            weight.value.data = weight.value.data.contiguous()
            # Where layers share a weight, it is changed in place for all of them.
            module, name = weight.places[0]
            prune.l1_unstructured(module, name, amount=self.fraction)
            prune.remove(module, name)
        return len(found)
