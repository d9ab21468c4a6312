"""Two integers of four bits in a byte come back as they went in."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from muster_worker.compress.packing import pack, unpack


@given(st.lists(st.integers(-8, 7), max_size=50))
def test_they_come_back_from_half_the_bytes(integers):
    packed = pack(torch.tensor(integers, dtype=torch.int8))
    assert packed.dtype == torch.uint8
    assert packed.shape == ((len(integers) + 1) // 2,)
    found = unpack(packed, len(integers))
    assert found.dtype == torch.int8
    assert found.tolist() == integers


def test_the_first_is_in_the_lower_half():
    packed = pack(torch.tensor([[1, -1], [7, -8], [3, 0]], dtype=torch.int8)[:2])
    assert packed.tolist() == [0xF1, 0x87]
    assert pack(torch.tensor([5], dtype=torch.int8)).tolist() == [0x05]
