"""Mixed precision: which type the forward pass computes in, and the scaling that float16 needs."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch

from muster_worker.train.device import hardware
from muster_worker.train.errors import ConfigurationError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor
    from torch.optim import Optimizer


def chosen_dtype(wanted: str, kind: str, *, bfloat16_supported: bool) -> torch.dtype:
    """The type for `spec.recipe.config.precision` on a device of a `kind`: cpu, cuda or tpu.

    auto never computes in less than the device is fast at.
    """
    if wanted == "auto":
        if kind == "cpu":
            return torch.float32
        return torch.bfloat16 if bfloat16_supported else torch.float16
    if wanted == "float16" and kind != "cuda":
        raise ConfigurationError(
            "spec.recipe.config.precision: found float16, which needs a GPU, wanted auto, float32 or bfloat16"
        )
    dtype: torch.dtype = getattr(torch, wanted)
    return dtype


class Precision:
    """Computes in `dtype`; parameters, gradients and the optimizer stay float32."""

    def __init__(self, dtype: torch.dtype, device_type: str) -> None:
        self._dtype = dtype
        self._device_type = device_type
        # bfloat16 has float32's range; float16's gradients would vanish without scaling.
        self._scaler = torch.amp.GradScaler(device_type) if dtype == torch.float16 else None

    @classmethod
    def on(cls, device: torch.device, wanted: str) -> Precision:
        kind = hardware(device)
        supported = kind == "tpu" or (kind == "cuda" and torch.cuda.is_bf16_supported())
        return cls(chosen_dtype(wanted, kind, bfloat16_supported=supported), device.type)

    def check(self, *, divided: bool) -> None:
        """Raises ConfigurationError where ranks with parts of the model would decide differently about an overflow."""
        if divided and self._scaler is not None:
            raise ConfigurationError(
                "spec.recipe.config.precision: found float16, which spec.strategy does not go together with, wanted"
                " float32 or bfloat16"
            )

    def forward(self) -> AbstractContextManager[Any]:
        """The context of the forward pass and the loss."""
        if self._dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self._device_type, self._dtype)

    def backward(self, loss: Tensor) -> None:
        (self._scaler.scale(loss) if self._scaler else loss).backward()

    def unscale(self, optimizer: Optimizer) -> None:
        """Before anybody looks at the gradients of `optimizer`, once a step."""
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> None:
        """Steps, except where float16 overflowed: reduced gradients are equal, so all ranks decide alike."""
        if self._scaler is None:
            optimizer.step()
            return
        self._scaler.step(optimizer)
        self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return self._scaler.state_dict() if self._scaler else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._scaler and state:
            self._scaler.load_state_dict(state)
