"""Tensors as bytes, in the order of lists that both sides know, and bytes in messages of a bounded size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

LARGEST_MESSAGE = 2 << 20
"""Bytes; below the 4 MiB that gRPC takes unless told otherwise."""


def packed(tensors: Sequence[Tensor]) -> bytearray:
    payload = bytearray(sum(tensor.nbytes for tensor in tensors))
    offset = 0
    for tensor in tensors:
        if tensor.nbytes:
            place = torch.frombuffer(payload, dtype=torch.uint8, count=tensor.nbytes, offset=offset)
            place.copy_(tensor.detach().reshape(-1).view(torch.uint8))
            offset += tensor.nbytes
    return payload


def unpacked(payload: bytearray | memoryview, like: Sequence[Tensor]) -> list[Tensor]:
    """Tensors on the CPU; raises ValueError when the payload is not as long as they are."""
    wanted = sum(tensor.nbytes for tensor in like)
    if len(payload) != wanted:
        raise ValueError(f"found {len(payload)} bytes, wanted {wanted}")
    tensors, offset = [], 0
    for tensor in like:
        if tensor.nbytes == 0:
            tensors.append(torch.empty_like(tensor, device="cpu"))
            continue
        # A copy: what lies at any place in a buffer need not be where its type may lie.
        piece = torch.frombuffer(payload, dtype=torch.uint8, count=tensor.nbytes, offset=offset).clone()
        tensors.append(piece.view(tensor.dtype).view(tensor.shape))
        offset += tensor.nbytes
    return tensors


def messages(payload: bytes | bytearray) -> Iterator[bytes]:
    view = memoryview(payload)
    for start in range(0, len(view), LARGEST_MESSAGE):
        yield bytes(view[start : start + LARGEST_MESSAGE])


def received(parts: Iterable[bytes], size: int) -> bytearray:
    """The payload that such messages bring; raises ValueError when it is not of this size."""
    payload = bytearray(size)  # at once: one that grew would be copied again and again
    count = 0
    for part in parts:
        if count + len(part) <= size:
            payload[count : count + len(part)] = part
        count += len(part)
    if count != size:
        raise ValueError(f"found {count} bytes, wanted {size}")
    return payload
