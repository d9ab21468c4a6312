"""Mixed precision: which type the forward pass computes in, and the scaling that float16 needs."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from muster_worker.train.device import hardware
from muster_worker.train.errors import ConfigurationError
from muster_worker.train.strategy.base import local
from muster_worker.train.strategy.layout import PARAMETER_SERVER

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor
    from torch.optim import Optimizer

    from muster_worker.train.strategy.layout import Layout


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

    def __init__(self, dtype: torch.dtype, device_type: str, *, divided: bool = False) -> None:
        """`divided`: ranks have parts of the model, and decide together."""
        self._dtype = dtype
        self._device_type = device_type
        # bfloat16 has float32's range; float16's gradients would vanish without scaling.
        self._scaler: torch.amp.GradScaler | None = None
        if dtype == torch.float16:
            self._scaler = _Together(device_type) if divided else torch.amp.GradScaler(device_type)
            self._scaler.scale(torch.zeros((), device=device_type))  # begins with it, on ranks without a loss too

    @classmethod
    def on(cls, device: torch.device, wanted: str, layout: Layout) -> Precision:
        """Raises ConfigurationError where ranks of this layout cannot compute in it."""
        kind = hardware(device)
        supported = kind == "tpu" or (kind == "cuda" and torch.cuda.is_bf16_supported())
        dtype = chosen_dtype(wanted, kind, bfloat16_supported=supported)
        if layout.tensor > 1 and kind == "cpu" and dtype != torch.float32:
            raise ConfigurationError(
                f"spec.recipe.config.precision: found {wanted}, in which gloo adds up nothing that CPUs with parts of"
                " a layer have computed (spec.strategy: tensor), wanted auto or float32"
            )
        if layout.strategy == PARAMETER_SERVER and dtype == torch.float16:
            if wanted != "auto":
                raise ConfigurationError(
                    "spec.recipe.config.precision: found float16, which parameter servers do not go together with,"
                    " wanted auto, float32 or bfloat16"
                )
            dtype = torch.float32
        return cls(dtype, device.type, divided=layout.divides)

    def forward(self) -> AbstractContextManager[Any]:
        """The context of the forward pass and the loss."""
        if self._dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self._device_type, self._dtype)

    def backward(self, loss: Tensor) -> None:
        self.scaled(loss).backward()

    def scaled(self, loss: Tensor) -> Tensor:
        """What the backward pass is to begin with."""
        return self._scaler.scale(loss) if self._scaler is not None else loss

    def unscale(self, optimizer: Optimizer) -> None:
        """Before anybody looks at the gradients of `optimizer`, once a step."""
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> None:
        """Steps, except where float16 overflowed; all ranks decide alike. Collective, where they have parts."""
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


class _Together(torch.amp.GradScaler):
    """For ranks that have parts of a model: where one has found an overflow, all leave the step out.

    Where all have the whole, they need not ask: reduced gradients are equal.
    """

    def _unscale_grads_(
        self,
        optimizer: Optimizer,
        inv_scale: Tensor,
        found_inf: Tensor,
        allow_fp16: bool,  # noqa: ARG002 - as torch has it
    ) -> dict[torch.device, Tensor]:
        parameters = (one for group in optimizer.param_groups for one in group["params"])
        gradients = [local(one.grad) for one in parameters if one.grad is not None]
        if gradients:
            torch._amp_foreach_non_finite_check_and_unscale_(gradients, found_inf, inv_scale)
        dist.all_reduce(found_inf, dist.ReduceOp.MAX)
        return {found_inf.device: found_inf}
