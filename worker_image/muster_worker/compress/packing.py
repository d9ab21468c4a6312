"""Two integers of four bits in a byte."""

from __future__ import annotations

import torch
from torch import Tensor


def pack(integers: Tensor) -> Tensor:
    """Gives n integers from -8 to 7, int8 of any shape, as uint8 (⌈n / 2⌉,): the first of two is in the lower half."""
    flat = integers.flatten()
    pairs = torch.nn.functional.pad(flat, (0, len(flat) % 2)).view(-1, 2)
    return ((pairs[:, 0] & 0xF) | (pairs[:, 1] << 4)).view(torch.uint8)


def unpack(packed: Tensor, count: int) -> Tensor:
    """The `count` integers that were packed, int8 (count,)."""
    signed = packed.view(torch.int8)
    # A signed number keeps its sign when it is shifted to the right.
    return torch.stack(((signed << 4) >> 4, signed >> 4), dim=-1).flatten()[:count]
