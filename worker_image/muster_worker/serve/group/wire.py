"""Frames, which are what the processes of a group tell each other.

A frame is the length of its header (four bytes, big-endian), the header (JSON), and the bytes of its tensors one after
the other (row-major, little-endian). Nothing that comes is ever run.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
import torch

from muster_worker.train.model_directory import DATATYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

_LENGTH = struct.Struct(">I")
_LONGEST_HEADER = 1 << 20
_WORTH_A_SEND = 1 << 16
"""Bytes from which on a copy costs more than a packet of its own."""

_TORCH = {name: dtype for dtype, name in DATATYPES.items()}


class BrokenFrameError(Exception):
    """What came is no frame."""


@dataclass(frozen=True, slots=True)
class Frame:
    """`kind` says what it is for, `words` are JSON."""

    kind: str
    words: dict[str, Any] = field(default_factory=dict)
    tensors: Sequence[Tensor] = ()


def pieces(frame: Frame) -> Iterator[bytes | memoryview]:
    """What is to be sent, in as few pieces as are worth it."""
    described = [(DATATYPES[tensor.dtype], list(tensor.shape)) for tensor in frame.tensors]
    header = orjson.dumps({"kind": frame.kind, "words": frame.words, "tensors": described})
    contents = [_bytes_of(tensor) for tensor in frame.tensors]
    head = _LENGTH.pack(len(header)) + header
    if sum(map(len, contents)) < _WORTH_A_SEND:
        yield b"".join([head, *contents])
        return
    yield head
    yield from contents


def read(receive: Callable[[int], bytearray]) -> Frame:
    """The next one; `receive` gives that many bytes. Raises BrokenFrameError."""
    (length,) = _LENGTH.unpack(receive(_LENGTH.size))
    if length > _LONGEST_HEADER:
        raise BrokenFrameError(f"a header of {length} bytes, wanted at most {_LONGEST_HEADER}")
    try:
        header = orjson.loads(receive(length))
        kind, words, described = header["kind"], header["words"], header["tensors"]
        kinds = [(_TORCH[datatype], shape) for datatype, shape in described]
    except (ValueError, KeyError, TypeError) as error:
        raise BrokenFrameError(f"a header that is none of a frame: {error!r}") from error
    return Frame(kind, words, [_received(receive, dtype, shape) for dtype, shape in kinds])


def _bytes_of(tensor: Tensor) -> memoryview:
    # Of one element or none, a contiguous tensor may have any stride.
    row = tensor.contiguous().as_strided((tensor.numel(),), (1,))
    content: memoryview = row.view(torch.uint8).numpy().data
    return content


def _received(receive: Callable[[int], bytearray], dtype: torch.dtype, shape: list[int]) -> Tensor:
    size = math.prod(shape) * dtype.itemsize
    return torch.frombuffer(receive(size), dtype=dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)
