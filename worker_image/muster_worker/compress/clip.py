"""Clipping: no weight is larger than ε.

w_c = Clip(w, ε) = min(max(w, -ε), ε). By itself it saves no byte. It takes away the few large weights by which the
scale of all others is chosen when they are quantized.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from muster_worker.compress.technique import Technique
from muster_worker.compress.weights import weights
from muster_worker.train.config import setting

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Clip(Technique):
    """`{clip: {epsilon: "0.5"}}` or `{clip: {standardDeviations: "3"}}`."""

    epsilon: float | None = setting(None, minimum=1e-6)
    """The largest absolute value that a weight may have."""

    standard_deviations: float | None = setting(None, minimum=0.1)
    """The same as a multiple of the standard deviation of each layer's own weights."""

    @property
    def fault(self) -> str | None:
        if (self.epsilon is None) == (self.standard_deviations is None):
            found = "neither" if self.epsilon is None else "both"
            return f": found {found} of epsilon and standardDeviations, wanted one of them"
        return None

    def compress(self, model: nn.Module) -> int:
        found = weights(model)
        for weight in found:
            epsilon = self._epsilon(weight.value.detach())
            # Weights that are all alike deviate by nothing, and would all become nothing.
            if epsilon > 0:
                weight.value.detach().clamp_(-epsilon, epsilon)
        return len(found)

    def _epsilon(self, values: Tensor) -> float:
        if self.epsilon is not None:
            return self.epsilon
        assert self.standard_deviations is not None, "found by `fault`"
        return self.standard_deviations * torch.std(values, correction=0).item()
