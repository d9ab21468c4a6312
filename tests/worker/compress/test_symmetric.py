"""Integers and a scale stand for numbers, no further off than half a step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from muster_worker.compress.symmetric import symmetric

# A scale below 2**-126 has few digits left: nothing smaller than what keeps it above.
NUMBERS = st.just(0.0) | st.floats(2.0**-118, 2.0**60, width=32) | st.floats(-(2.0**60), -(2.0**-118), width=32)
ROWS = arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=3, max_side=9), elements=NUMBERS)
BITS = st.sampled_from([4, 8])


@given(ROWS, BITS)
def test_it_is_the_formula(values, bits):
    largest = 2 ** (bits - 1) - 1
    integers, scales = symmetric(torch.from_numpy(values), bits)
    for row, found, scale in zip(
        values.reshape(-1, values.shape[-1]),
        integers.numpy().reshape(-1, values.shape[-1]),
        scales.numpy().ravel(),
        strict=True,
    ):
        step = np.abs(row).max() / np.float32(largest)
        assert scale == (step if step > 0 else 1)
        np.testing.assert_array_equal(found, np.round(row / scale))
        assert np.abs(found).max(initial=0) <= largest


@given(ROWS, BITS)
def test_nothing_is_off_by_more_than_half_a_step(values, bits):
    integers, scales = symmetric(torch.from_numpy(values), bits)
    error = (integers.double() * scales.double() - torch.from_numpy(values).double()).abs()
    # Dividing in float32 may take a number that lies in the middle to either side.
    assert (error <= scales.double() * (0.5 + 1e-5)).all()


@given(ROWS, BITS)
def test_of_what_is_turned_round_so_are_the_integers(values, bits):
    there, scales = symmetric(torch.from_numpy(values), bits)
    back, same = symmetric(torch.from_numpy(-values), bits)
    assert torch.equal(back, -there)
    assert torch.equal(same, scales)


def test_of_zeros_come_zeros():
    integers, scales = symmetric(torch.zeros(2, 3), 8)
    assert torch.equal(integers * scales, torch.zeros(2, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_range_holds_in_any_type(dtype):
    values = torch.randn(200, 30, generator=torch.Generator().manual_seed(0)).to(dtype)
    for bits in (4, 8):
        integers, scales = symmetric(values, bits)
        assert scales.dtype == dtype
        assert integers.abs().max() <= 2 ** (bits - 1) - 1
        assert (integers.sign() * values.sign() >= 0).all(), "none wrapped around"
