"""Symmetric quantization: numbers as small integers that share a scale.

w_q = round(w / s), s = max|w| / (2^(b-1) - 1), for b bits; w ≈ s w_q, off by s / 2 at most. Zero stays zero, and -w
becomes -w_q. By a scale so small that its type has few digits for it (float32: below 2^-126), w is off by more. It is
the symmetric quantizer with a restricted range of Krishnamoorthi, "Quantizing deep convolutional networks for efficient
inference: A whitepaper" (2018).
"""

from __future__ import annotations

import torch
from torch import Tensor


def symmetric(values: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """The integers, int8 of the shape of `values` (…, n), and the scales (…, 1): one for every n numbers."""
    largest = 2 ** (bits - 1) - 1
    scales = values.abs().amax(dim=-1, keepdim=True) / largest
    scales = torch.where(scales > 0, scales, 1.0)  # of nothing but zeros
    # In types of few bits the quotient may come out beyond the range, which would wrap around.
    return (values / scales).round().clamp(-largest, largest).to(torch.int8), scales
