"""Quantization: weights as integers of 8 or 4 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from muster_worker.compress.dynamic import make_dynamic
from muster_worker.compress.technique import Technique
from muster_worker.compress.weight_only import quantize_weights

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Quantize(Technique):
    """`{quantize: {bits: 8, mode: weightOnly}}`."""

    bits: Literal[8, 4] = 8
    """Of a weight."""

    mode: Literal["weightOnly", "dynamic"] = "weightOnly"
    """Whether layers compute with floating point numbers, or linear ones with integers; the others then stay."""

    @property
    def fault(self) -> str | None:
        if self.mode == "dynamic" and self.bits != 8:
            return f".bits: found {self.bits}, wanted 8 where the mode is dynamic"
        return None

    @property
    def target(self) -> str:
        return super().target if self.mode == "weightOnly" else "torch.nn.Linear"

    def compress(self, model: nn.Module) -> int:
        return make_dynamic(model) if self.mode == "dynamic" else quantize_weights(model, self.bits)
