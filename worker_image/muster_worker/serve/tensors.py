"""Tensors of the Open Inference Protocol: as JSON numbers, flat or nested, and as bytes, little-endian and row-major.

Source: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol
"""

from __future__ import annotations

import itertools
import math
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from muster_worker.serve.errors import RequestError
from muster_worker.train.model_directory import DATATYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

ANY = -1
"""A length that is the request's to choose."""

_TORCH = {name: dtype for dtype, name in DATATYPES.items()}
_NUMPY = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
"""bfloat16 is none of numpy's, and has no JSON numbers in the protocol either."""

_KINDS = {"BOOL": "b", "FP16": "iuf", "FP32": "iuf", "FP64": "iuf"}
_INTEGERS = "iu"
_IN_A_ROW = {"iuf": "d", "iu": "q"}
"""How an array of the standard library has them."""

_WORDS = {"b": "true or false", "iu": "whole numbers", "iuf": "numbers"}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model. `shape`: the batch first; -1 is any length, at most `longest` tokens.

    `vocabulary`: its numbers are tokens below that.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    longest: int | None = None
    vocabulary: int | None = None

    @property
    def itemsize(self) -> int:
        return _TORCH[self.datatype].itemsize

    def zeros(self) -> Tensor:
        """One sample of it, as long as it may be."""
        any_lengths = itertools.chain([1], itertools.repeat(self.longest or 1))
        lengths = [any_ if one == ANY else one for one, any_ in zip(self.shape, any_lengths, strict=False)]
        return torch.zeros(lengths, dtype=_TORCH[self.datatype])

    def check(self, datatype: str, shape: Sequence[int]) -> None:
        """Raises RequestError when a tensor of that type and shape is not what is wanted."""
        if datatype != self.datatype:
            raise RequestError(f"input {self.name}: its datatype is {datatype}, wanted {self.datatype}")
        fits = len(shape) == len(self.shape) and all(
            type(found) is int and found > 0 and wanted in (ANY, found)
            for found, wanted in zip(shape, self.shape, strict=True)
        )
        if not fits:
            raise RequestError(
                f"input {self.name}: its shape is {list(shape)}, wanted {list(self.shape)} (-1: 1 or more)"
            )
        if self.longest is not None and max(shape[1:]) > self.longest:
            raise RequestError(
                f"input {self.name}: its shape is {list(shape)}, wanted a text of at most {self.longest} tokens"
            )

    def from_json(self, shape: Sequence[int], data: Any) -> Tensor:
        """The tensor of these numbers; raises RequestError when they are of another kind or not as many."""
        if self.datatype not in _NUMPY:
            raise RequestError(f"input {self.name}: {self.datatype} has no JSON numbers, send its bytes")
        wanted = _KINDS.get(self.datatype, _INTEGERS)
        try:
            found = _array(data, wanted)
            if self.datatype == "UINT64" and found.dtype.kind == "f":
                found = _whole(np.asarray(data, dtype=object))
        except ValueError:
            raise RequestError(f"input {self.name}: the lists in its data are of unequal lengths") from None
        if found.dtype.kind not in wanted and found.size:
            raise RequestError(f"input {self.name}: its data is not {_WORDS[wanted]} throughout")
        if found.size != math.prod(shape) or (found.ndim > 1 and found.shape != tuple(shape)):
            raise RequestError(
                f"input {self.name}: its data has the shape {list(found.shape)}, wanted {list(shape)}, or as many in"
                " one list"
            )
        if wanted == _INTEGERS:
            limits = np.iinfo(_NUMPY[self.datatype])
            if found.min() < limits.min or found.max() > limits.max:
                raise RequestError(f"input {self.name}: a number is outside of {limits.min} to {limits.max}")
        with np.errstate(over="ignore"):  # to infinity, as in every computation with such a type
            return self._known(torch.from_numpy(found.astype(_NUMPY[self.datatype]).reshape(tuple(shape))))

    def from_bytes(self, shape: Sequence[int], content: bytes | memoryview) -> Tensor:
        """The tensor of these bytes, which are copied; raises RequestError when they are not as many as it has."""
        wanted = math.prod(shape) * self.itemsize
        if len(content) != wanted:
            raise RequestError(
                f"input {self.name}: {len(content)} bytes, wanted {wanted} for {list(shape)} of {self.datatype}"
            )
        return self._known(torch.frombuffer(bytearray(content), dtype=_TORCH[self.datatype]).reshape(tuple(shape)))

    def _known(self, tensor: Tensor) -> Tensor:
        """The same; raises RequestError for tokens that there are not."""
        if self.vocabulary is not None:
            numbers = tensor.numpy()
            for found in (numbers.min(), numbers.max()):
                if not 0 <= found < self.vocabulary:
                    raise RequestError(
                        f"input {self.name}: found the token {found}, wanted tokens from 0 to {self.vocabulary - 1}"
                    )
        return tensor


def _array(data: Any, kinds: str) -> np.ndarray[Any, Any]:
    """Of any numbers, flat or nested. Numbers in one row are had in a third of the time that numpy takes.

    numpy looks at all of them first, for what they have in common; here that is known, and what is not so goes to it.
    """
    if kinds in _IN_A_ROW and isinstance(data, list) and data and not isinstance(data[0], bool):
        try:
            return np.frombuffer(array(_IN_A_ROW[kinds], data), _IN_A_ROW[kinds])
        except (TypeError, OverflowError):
            pass
    # To numpy, texts are an array in which each takes as much memory as the longest.
    return np.asarray(None if _has_texts(data) else data)


def _has_texts(data: Any) -> bool:
    """In whatever lists."""
    lists = [[data]]
    while lists:
        kinds = set().union(*(set(map(type, one)) for one in lists))
        if str in kinds:
            return True
        lists = [one for each in lists for one in each if isinstance(one, list)] if list in kinds else []
    return False


def _whole(found: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Whole numbers on both sides of 2**63 are floats to numpy, unless it is told otherwise."""
    fits = all(type(number) is int and 0 <= number < 1 << 64 for number in found.flat)
    return found.astype(np.uint64) if fits else found


def to_numbers(tensor: Tensor) -> np.ndarray[Any, Any]:
    """All of them in one row without gaps, as JSON can have them."""
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    return tensor.reshape(-1).contiguous().numpy()


def to_bytes(tensor: Tensor) -> bytes:
    tensor = tensor.contiguous()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.int16)
    return tensor.numpy().tobytes()


def datatype_of(tensor: Tensor) -> str:
    return DATATYPES[tensor.dtype]
