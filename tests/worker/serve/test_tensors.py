"""Tensors in and out: what was sent is what is computed with, and what does not fit is named."""

from __future__ import annotations

import json

import numpy as np
import orjson
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from muster_worker.serve.errors import RequestError
from muster_worker.serve.tensors import TensorSpec, datatype_of, to_bytes, to_numbers
from muster_worker.train.model_directory import DATATYPES

TYPES = {name: dtype for dtype, name in DATATYPES.items()}
WITH_NUMBERS = sorted(set(TYPES) - {"BF16"})


def some(datatype, shape):
    dtype = TYPES[datatype]
    if dtype == torch.bool:
        return torch.rand(shape) > 0.5
    if dtype.is_floating_point:
        return torch.randn(shape).to(dtype)
    limits = np.iinfo(str(dtype).removeprefix("torch."))
    numbers = np.random.default_rng().integers(limits.min, limits.max, shape, limits.dtype, endpoint=True)
    return torch.from_numpy(numbers)


shapes = st.lists(st.integers(1, 4), min_size=1, max_size=3)


@given(st.sampled_from(sorted(TYPES)), shapes)
def test_bytes_come_back_as_they_were(datatype, shape):
    tensor = some(datatype, shape)
    spec = TensorSpec("x", datatype, (-1, *shape[1:]))
    spec.check(datatype, shape)
    assert torch.equal(spec.from_bytes(shape, to_bytes(tensor)), tensor)
    assert datatype_of(tensor) == datatype


@given(st.sampled_from(WITH_NUMBERS), shapes, st.booleans())
def test_numbers_come_back_as_they_were_flat_or_nested(datatype, shape, nested):
    tensor = some(datatype, shape)
    text = (
        json.dumps(tensor.tolist()) if nested else orjson.dumps(to_numbers(tensor), option=orjson.OPT_SERIALIZE_NUMPY)
    )
    found = TensorSpec("x", datatype, tuple(shape)).from_json(shape, orjson.loads(text))
    assert torch.equal(found, tensor)


numbers = st.integers(-(2**53), 2**53) | st.floats(width=64)


@given(st.sampled_from(["FP16", "FP32", "FP64", "INT64"]), st.lists(numbers | st.booleans() | st.none(), min_size=1))
def test_a_row_of_numbers_is_read_as_numpy_reads_it(datatype, row):
    spec, shape = TensorSpec("x", datatype, (-1,)), [len(row)]
    wanted = np.asarray(row)
    if wanted.dtype.kind in ("if" if datatype != "INT64" else "i"):
        with np.errstate(over="ignore"):
            wanted = torch.from_numpy(wanted.astype(f"f{spec.itemsize}" if datatype != "INT64" else "i8"))
        assert torch.equal(spec.from_json(shape, row).nan_to_num(7), wanted.nan_to_num(7))
    else:
        with pytest.raises(RequestError, match="its data is not"):
            spec.from_json(shape, row)


@pytest.mark.parametrize(
    ("shape", "longest", "wanted"),
    [((-1, 3), None, (1, 3)), ((-1, -1, 2), None, (1, 1, 2)), ((-1, -1, 2), 5, (1, 5, 2)), ((4, -1), 5, (4, 5))],
)
def test_one_sample_is_as_long_as_it_may_be(shape, longest, wanted):
    assert TensorSpec("x", "FP32", shape, longest).zeros().shape == wanted


def test_bytes_of_a_tensor_that_is_not_in_one_piece():
    tensor = torch.arange(6, dtype=torch.int32).reshape(2, 3).t()
    assert torch.equal(TensorSpec("x", "INT32", (3, 2)).from_bytes([3, 2], to_bytes(tensor)), tensor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.int64])
def test_numbers_of_a_tensor_that_is_not_in_one_piece(dtype):
    tensor = torch.arange(6, dtype=dtype).reshape(3, 2)[:, 1]
    assert orjson.dumps(to_numbers(tensor), option=orjson.OPT_SERIALIZE_NUMPY) in (b"[1,3,5]", b"[1.0,3.0,5.0]")


@pytest.mark.parametrize(
    ("datatype", "shape", "wanted"),
    [
        ("FP64", [1, 4], "input x: its datatype is FP64, wanted FP32"),
        ("FP32", [4], r"input x: its shape is \[4\], wanted \[-1, 4\]"),
        ("FP32", [1, 5], r"its shape is \[1, 5\], wanted \[-1, 4\]"),
        ("FP32", [0, 4], r"its shape is \[0, 4\], wanted \[-1, 4\]"),
        ("FP32", [-1, 4], r"its shape is \[-1, 4\]"),
        ("FP32", ["1", 4], r"its shape is \['1', 4\]"),
        ("FP32", [1.0, 4], r"its shape is \[1.0, 4\]"),
    ],
)
def test_another_type_or_shape_is_named(datatype, shape, wanted):
    with pytest.raises(RequestError, match=wanted):
        TensorSpec("x", "FP32", (-1, 4)).check(datatype, shape)


@pytest.mark.parametrize(
    ("datatype", "data", "wanted"),
    [
        ("FP32", [1, 2, 3], r"its data has the shape \[3\], wanted \[2, 2\], or as many in one list"),
        ("FP32", [[1, 2, 3, 4]], r"its data has the shape \[1, 4\], wanted \[2, 2\]"),
        ("FP32", [[1, 2], [3]], "the lists in its data are of unequal lengths"),
        ("FP32", ["1", "2", "3", "4"], "its data is not numbers throughout"),
        ("FP32", [1, None, 3, 4], "its data is not numbers throughout"),
        ("FP32", [], r"its data has the shape \[0\]"),
        ("FP32", {"a": 1}, "its data is not numbers throughout"),
        ("INT8", [1, 2, 3, 128], "a number is outside of -128 to 127"),
        ("UINT8", [1, 2, 3, -1], "a number is outside of 0 to 255"),
        ("INT64", [2**63] * 4, "a number is outside of"),
        ("INT32", [1.5, 2, 3, 4], "its data is not whole numbers throughout"),
        ("BOOL", [1, 0, 1, 0], "its data is not true or false throughout"),
        ("BF16", [1, 2, 3, 4], "BF16 has no JSON numbers, send its bytes"),
    ],
)
def test_numbers_that_do_not_fit_are_named(datatype, data, wanted):
    with pytest.raises(RequestError, match=wanted):
        TensorSpec("x", datatype, (-1, 2)).from_json([2, 2], data)


@pytest.mark.parametrize("data", [["x" * 100_000, *["y"] * 100_000], [[1, 2], ["x" * 100_000, 3]] * 50_000])
def test_texts_in_the_place_of_numbers_take_no_memory_of_their_own(data):
    with pytest.raises(RequestError, match="its data is not numbers throughout"):
        TensorSpec("x", "FP32", (-1, 2)).from_json([2, 2], data)


@pytest.mark.parametrize("datatype", ["UINT8", "UINT16", "INT32", "INT64", "UINT64"])
def test_tokens_that_there_are_not_are_named(datatype):
    spec = TensorSpec("x", datatype, (-1, 2), vocabulary=7)
    for data in ([0, 6], [6, 0]):
        assert spec.from_json([1, 2], data).tolist() == [data]
    content = to_bytes(torch.tensor([7, 0]).to(TYPES[datatype]))
    for tokens in (lambda: spec.from_json([1, 2], [7, 0]), lambda: spec.from_bytes([1, 2], content)):
        with pytest.raises(RequestError, match="input x: found the token 7, wanted tokens from 0 to 6"):
            tokens()


def test_too_few_bytes_are_named():
    with pytest.raises(RequestError, match=r"input x: 15 bytes, wanted 16 for \[2, 2\] of FP32"):
        TensorSpec("x", "FP32", (-1, 2)).from_bytes([2, 2], b"x" * 15)
