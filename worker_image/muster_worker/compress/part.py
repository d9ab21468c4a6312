"""Some of the outputs or of the inputs of a linear layer, whatever its weights are stored as."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from torch import nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from muster_worker.compress.dynamic import DynamicLinear
from muster_worker.compress.weight_only import Quantized

if TYPE_CHECKING:
    from torch import Tensor


def can_have_parts(layer: nn.Module) -> bool:
    """Whether it is a linear layer as torch or quantization made it. Subclasses may compute anything else."""
    if type(layer) is DynamicLinear or type(layer) is nn.Linear:
        return True
    return type_before_parametrizations(layer) is nn.Linear and _quantized(layer) is not None


def keep_outputs(layer: nn.Linear, kept: range) -> None:
    """In place: (…, in) to (…, kept)."""
    _keep(layer, 0, kept)
    layer.out_features = len(kept)
    if layer.bias is not None:
        layer.bias = _constant(layer.bias[kept.start : kept.stop])


def keep_inputs(layer: nn.Linear, kept: range) -> None:
    """In place: (…, kept) to (…, out), of which the sum over all parts is what the layer gave, but for its bias.

    Of a DynamicLinear, that is so but for rounding: each part quantizes what enters it by a scale of its own.
    """
    layer.bias = None
    if type(layer) is DynamicLinear and len(kept) <= 1:
        layer.become_usual()  # as `make_dynamic` leaves those of one input alone
    _keep(layer, 1, kept)
    layer.in_features = len(kept)


def _keep(layer: nn.Linear, dimension: Literal[0, 1], kept: range) -> None:
    quantized = _quantized(layer)
    if isinstance(layer, DynamicLinear):
        layer.integers = _cut(layer.integers, dimension, kept)
        layer.scales = _cut(layer.scales, dimension, kept) if dimension == 0 else layer.scales
    elif quantized is not None:
        of_weight: Any = layer.parametrizations.weight
        of_weight[0], of_weight.original0, of_weight.original1 = quantized.part(
            of_weight.original0, of_weight.original1, dimension, kept
        )
    else:
        layer.weight = _constant(_cut(layer.weight, dimension, kept))


def _quantized(layer: nn.Module) -> Quantized | None:
    """What computes its weight, where that is of integers and nothing else has a part in it."""
    if not is_parametrized(layer, "weight"):
        return None
    first, *others = layer.parametrizations.weight
    return first if isinstance(first, Quantized) and not others else None


def _cut(tensor: Tensor, dimension: int, kept: range) -> Tensor:
    """Its own numbers alone, so that the others need no memory."""
    return tensor.narrow(dimension, kept.start, len(kept)).clone()


def _constant(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone(), requires_grad=False)
