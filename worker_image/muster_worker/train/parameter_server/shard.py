"""One server's part of the model, and the gradients of the steps that are under way.

Thread-safe: many workers pull and push while the server makes updates. A step's gradients are added in the order of its
shares, whatever order they come in, so that the same numbers come out each time. A share that was computed twice, since
its first worker seemed lost, counts once.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from muster_worker.train.parameter_server.quantized import decoded
from muster_worker.train.parameter_server.wire import packed, unpacked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn


@dataclass(slots=True)
class _Share:
    """One worker's part of a step's gradient; None for parameters that its samples did not reach."""

    gradients: list[Tensor | None]
    buffers: list[Tensor]


@dataclass(slots=True)
class _Sum:
    """Of the first `count` shares of a step; `waiting` are later ones that came before these were all there."""

    gradients: list[Tensor | None]
    buffers: list[Tensor] = field(default_factory=list)
    count: int = 0
    waiting: dict[int, _Share] = field(default_factory=dict)

    def add(self, number: int, share: _Share) -> None:
        if number < self.count or number in self.waiting:
            return
        self.waiting[number] = share
        while (following := self.waiting.pop(self.count, None)) is not None:
            self.buffers = self.buffers or following.buffers
            self.gradients = [_sum(*both) for both in zip(self.gradients, following.gradients, strict=True)]
            self.count += 1


class Shard:
    def __init__(self, parameters: list[nn.Parameter], buffers: list[Tensor], version: int) -> None:
        """`version`: how many updates the parameters have seen."""
        self._parameters, self._buffers = parameters, buffers
        self._version = version
        self._sums: dict[int, _Sum] = {}
        self._packed: bytearray | None = None
        self._changed = threading.Condition()

    def pull(self, at_least: int, known: int | None, patience: float) -> tuple[int, bytes | bytearray] | None:
        """The newest version and its bytes, parameters and then buffers; none where it is the one that is `known`.

        Waits for a version so new, for `patience` seconds; None when there is none then.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._version >= at_least, patience):
                return None
            if self._version == known:
                return self._version, b""
            if self._packed is None:
                self._packed = packed([*self._parameters, *self._buffers])
            return self._version, self._packed

    def push(self, step: int, number: int, payload: bytearray, *, quantized: bool) -> None:
        """A share's part of the gradient of `step`; of a step that is made already, nothing is kept.

        `payload`: for each parameter a byte that says whether it has a gradient, those gradients, and of the first
        share the buffers. Raises ValueError when that is not what it is.
        """
        if step < self._version:
            return
        share = self._read(payload, quantized=quantized, with_buffers=number == 0)
        with self._changed:
            if step >= self._version:
                self._sums.setdefault(step, _Sum([None] * len(self._parameters))).add(number, share)

    def _read(self, payload: bytearray, *, quantized: bool, with_buffers: bool) -> _Share:
        count = len(self._parameters)
        whole = memoryview(payload)
        reached = [one for one, told in zip(self._parameters, whole[:count], strict=True) if told]
        buffers = self._buffers if with_buffers else []
        end = len(whole) - sum(buffer.nbytes for buffer in buffers)
        gradients = iter((decoded if quantized else unpacked)(whole[count:end], reached))
        return _Share([next(gradients) if told else None for told in whole[:count]], unpacked(whole[end:], buffers))

    @contextmanager
    def update(self, shares: int) -> Iterator[None]:
        """Inside, the parameters have the gradient of the step that follows, which nobody pulls in between."""
        with self._changed:
            found = self._sums.pop(self._version)
            assert found.count == shares, f"{found.count} of {shares} shares are here: the first server was told of all"
            for parameter, gradient in zip(self._parameters, found.gradients, strict=True):
                parameter.grad = gradient
            yield
            with torch.no_grad():
                for buffer, value in zip(self._buffers, found.buffers, strict=True):
                    buffer.copy_(value)
            self._version += 1
            self._packed = None
            self._changed.notify_all()


def _sum(total: Tensor | None, addend: Tensor | None) -> Tensor | None:
    if total is None or addend is None:
        return addend if total is None else total
    return total.add_(addend)
