"""What a stage of a pipeline fails with, told to those behind it: after each batch, each sends a word to the next.

So all of them fail with that batch, nobody waits for anybody, and the next batch finds all at the same place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from muster_worker.serve.errors import ComputationError, causes
from muster_worker.serve.generate.decoder import failed

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup


class OutOfStepError(ComputationError):
    """A rank has failed in the middle of what others wait for."""


def is_out_of_step(error: BaseException | None) -> bool:
    """Whether it is, or comes of, an OutOfStepError."""
    return any(isinstance(one, OutOfStepError) for one in causes(error))


class Failures:
    """Of one rank of each stage."""

    def __init__(self, group: ProcessGroup, device: torch.device, number: int, stages: int) -> None:
        self._group, self._device, self._number = group, device, number
        self._is_last = number == stages - 1

    def exchange(self, error: Exception | None) -> None:
        """Raises ComputationError where this stage has failed, or one before it: with the words of the first."""
        told = self._received() if self._number else ""
        if not told and error is not None:
            told = str(failed(error))
        if not self._is_last:
            self._send(told)
        if told:
            raise ComputationError(told) from error

    def _received(self) -> str:
        (length,) = self._next(torch.empty(1, dtype=torch.int64)).tolist()
        return text_of(self._next(torch.empty(length, dtype=torch.uint8))) if length else ""

    def _next(self, tensor: Tensor) -> Tensor:
        received = tensor.to(self._device)
        dist.recv(received, group=self._group, group_src=self._number - 1)
        return received

    def _send(self, text: str) -> None:
        content = tensor_of(text)
        for tensor in (torch.tensor([len(content)]), content)[: 2 if text else 1]:
            dist.send(tensor.to(self._device), group=self._group, group_dst=self._number + 1)


def tensor_of(text: str) -> Tensor:
    return torch.tensor(list(text.encode(errors="replace")), dtype=torch.uint8)


def text_of(tensor: Tensor) -> str:
    return bytes(tensor.tolist()).decode()
