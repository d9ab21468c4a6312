"""Linear layers that compute with integers: a byte has each weight, and each number that enters, quantized as it comes.

y = s_x s_w (x_q W_qᵀ) + b, where every sample's row x has its own scale s_x and every output channel its own s_w: the
vector-wise quantization of Dettmers et al., "LLM.int8()" (2022), without the parts that stay floating point there. The
product is exact, in int32. A sample's result does not depend on those that it is computed together with.

Not by torch.ao.quantization.quantize_dynamic: torch announces its end, torch.export does not know its layers, and its
scale for what enters is one for a whole batch. CPUs only: on GPUs, torch multiplies so no fewer than 17 rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from muster_worker.compress.symmetric import symmetric

INPUT_BITS = 8
WEIGHT_BITS = 7
"""CPUs without instructions for products of bytes (VNNI) add two of them in 16 bits. With weights of 8 bits, such a sum
is cut off, silently: 2 · 255 · 127 > 2^15 - 1, for oneDNN adds 128 to what enters. 2 · 255 · 63 fits."""

LONGEST = (2**31 - 1) // (127 * 63)
"""Numbers that enter a layer: of more, the sum of their products may not fit int32."""


def make_dynamic(model: nn.Module) -> int:
    """Changes every linear layer in place; gives the number of layers.

    Those of more than `LONGEST` inputs are left alone, and those of one, which torch computes wrongly so (2.14: it
    leaves the result unwritten). So are subclasses, for which torch or a recipe has a reason.
    """
    layers = [one for one in model.modules() if type(one) is nn.Linear and 1 < one.in_features <= LONGEST]
    for layer in layers:
        integers, scales = symmetric(layer.weight.detach(), WEIGHT_BITS)
        del layer.weight
        layer.register_buffer("integers", integers)
        layer.register_buffer("scales", scales)
        # In place, so that whoever has the layer has the new one, also where it is the whole model.
        layer.__class__ = DynamicLinear
    for module in model.modules():
        _let_call_its_layers(module)
    return len(layers)


def _let_call_its_layers(module: nn.Module) -> None:
    """In inference, torch's transformers read weights and compute by themselves, and exported ones call their layers.

    What they look at before they do so is changed: else one model would give two answers, and be no faster.
    """
    if isinstance(module, nn.TransformerEncoderLayer) and isinstance(module.linear1, DynamicLinear):
        module.activation_relu_or_gelu = 0
    if isinstance(module, nn.TransformerEncoder):
        module.use_nested_tensor = False


class DynamicLinear(nn.Linear):
    """Made of an nn.Linear: `integers`, int8 (out, in), and `scales` (out, 1) stand for its weight."""

    integers: Tensor
    scales: Tensor

    @property
    def weight(self) -> Tensor:
        """For modules that read it instead of calling the layer."""
        return self.integers * self.scales

    def become_usual(self) -> None:
        """In place: with the same weight, in floating point."""
        weight = self.weight
        self.__class__ = nn.Linear
        del self.integers, self.scales
        self.register_parameter("weight", nn.Parameter(weight, requires_grad=False))

    def forward(self, inputs: Tensor) -> Tensor:
        """(…, in) to (…, out)."""
        rows, scales = symmetric(inputs.reshape(-1, self.in_features), INPUT_BITS)
        outputs = torch._int_mm(rows, self.integers.t()) * (scales * self.scales.t())  # noqa: SLF001 - the only way
        if self.bias is not None:
            outputs = outputs + self.bias
        return outputs.reshape(*inputs.shape[:-1], self.out_features)
