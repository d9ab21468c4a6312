"""Requests that come at about the same time are computed together.

A batch is computed once it has `max_size` samples, or its first request has waited for `max_delay`, and fewer than
`at_once` others are being computed. Without a delay too those are together that came in the same turn of the loop, or
while another batch was computed: the more requests there are, the larger batches are, and one alone does not wait.
Computation has threads of its own, so that requests are taken in meanwhile. A model so small that a hop to a thread and
back takes longer than itself is computed where it is asked for, at the turn's end: to read what came, compute it and
answer it, each in a row, takes half of the time of doing so request by request, for no step drives the code of the
others out of the caches.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from muster_worker.serve.errors import ComputationError, OverloadedError, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    Outputs = list[Tensor]
    Compute = Callable[[Sequence[Tensor]], Outputs]

WORTH_A_THREAD = 0.0005
"""Seconds of computation from which on a thread is used: the hop takes about 0.0001."""


class Watch(Protocol):
    """Is told of every batch: its samples, and the seconds that each of its requests waited."""

    def batch(self, samples: int, waited: Sequence[float]) -> None: ...


@dataclass(frozen=True, slots=True)
class Batching:
    """`spec.batching`, and how many requests may wait before more are refused."""

    max_size: int = 1
    max_delay: float = 0.0
    max_waiting: int = 1000


@dataclass(slots=True, eq=False)  # not frozen: that takes three times as long to make
class _Request:
    inputs: tuple[Tensor, ...]
    samples: int
    came: float
    answer: asyncio.Future[Outputs]
    shapes: list[torch.Size]
    """Of one sample of each input."""


class Batcher:
    """For one event loop. `batched`: the first dimension of all inputs and outputs is the batch."""

    def __init__(
        self,
        compute: Compute,
        batching: Batching,
        watch: Watch,
        *,
        batched: bool,
        seconds: float,
        at_once: int = 1,
    ) -> None:
        """`seconds`: what one sample takes."""
        self._compute = compute
        self._batching = batching
        self._watch = watch
        self._batched = batched
        self._max_size = batching.max_size if batched else 1
        self._waiting: deque[_Request] = deque()
        self._samples = 0
        self._at_once = at_once
        self._computing: list[float] = []  # when each began that is going on, the oldest first
        self._timer: asyncio.TimerHandle | None = None
        self._turn_ends = False  # and what came in it will be looked at
        self._thread = ThreadPoolExecutor(at_once, "compute") if seconds >= WORTH_A_THREAD else None
        self._loop = asyncio.get_running_loop()

    def submit(self, inputs: tuple[Tensor, ...]) -> asyncio.Future[Outputs]:
        """The outputs, or the ComputationError of this request; cancelled, it is not computed any more.

        Raises OverloadedError when too many wait.
        """
        if len(self._waiting) >= self._batching.max_waiting and self._thread is None:
            self._look()  # most waited for nothing but the turn's end
        if len(self._waiting) >= self._batching.max_waiting:
            raise OverloadedError(f"{len(self._waiting)} requests wait already: try again in a second")
        samples = inputs[0].shape[0] if self._batched else 1
        shapes = [tensor.shape[1:] for tensor in inputs]
        request = _Request(inputs, samples, self._loop.time(), self._loop.create_future(), shapes)
        self._waiting.append(request)
        self._samples += samples
        if self._samples >= self._max_size and self._thread is not None:
            self._look()
        elif not self._turn_ends:
            self._turn_ends = True
            self._loop.call_soon(self._end_turn)
        return request.answer

    @property
    def computing_for(self) -> float:
        """Seconds since the oldest computation began that is going on."""
        return self._loop.time() - self._computing[0] if self._computing else 0.0

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=False)

    def _end_turn(self) -> None:
        self._turn_ends = False
        self._look()

    def _look(self) -> None:
        """Computes what is due, and sees to it that this is called again when more will be."""
        while self._waiting and len(self._computing) < self._at_once:
            left = self._waiting[0].came + self._batching.max_delay - self._loop.time()
            if self._samples < self._max_size and left > 0:
                if self._timer is None:
                    self._timer = self._loop.call_later(left, self._time_is_up)
                return
            self._stop_timer()
            self._start(self._take())

    def _time_is_up(self) -> None:
        self._timer = None
        self._look()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _take(self) -> list[_Request]:
        """The oldest requests, up to the size of a batch but at least one; without those whose client has gone."""
        taken: list[_Request] = []
        size = 0
        while self._waiting and (not taken or self._fits(self._waiting[0], taken[0], size)):
            request = self._waiting.popleft()
            self._samples -= request.samples
            if not request.answer.done():
                taken.append(request)
                size += request.samples
        return taken

    def _fits(self, request: _Request, first: _Request, size: int) -> bool:
        return size + request.samples <= self._max_size and request.shapes == first.shapes

    def _start(self, requests: list[_Request]) -> None:
        if not requests:
            return
        now = self._loop.time()
        self._watch.batch(sum(request.samples for request in requests), [now - request.came for request in requests])
        if self._thread is None:
            _finish(requests, self._answers(requests))
            return
        self._computing.append(now)
        self._thread.submit(self._answers, requests).add_done_callback(
            lambda done: self._loop.call_soon_threadsafe(self._computed, now, requests, done.result())
        )

    def _computed(self, began: float, requests: list[_Request], answers: list[Outputs | RequestError]) -> None:
        self._computing.remove(began)
        self._look()
        _finish(requests, answers)

    def _answers(self, requests: list[_Request]) -> list[Outputs | RequestError]:
        """To each of them. Where a batch fails each is tried alone: only those fail that cannot be computed."""
        try:
            return self._together(requests)
        except RequestError as error:
            if len(requests) == 1 or not isinstance(error, ComputationError):
                return [error for _ in requests]
            return [answer for request in requests for answer in self._answers([request])]

    def _together(self, requests: list[_Request]) -> list[Outputs | RequestError]:
        if len(requests) == 1:
            return [self._in_pieces(requests[0])]
        inputs = [torch.cat(parts) for parts in zip(*(request.inputs for request in requests), strict=True)]
        lengths = [request.samples for request in requests]
        outputs = [output.split(lengths) for output in self._compute(inputs)]
        return [list(parts) for parts in zip(*outputs, strict=True)]

    def _in_pieces(self, request: _Request) -> Outputs:
        """One request may have more samples than a batch."""
        size = self._max_size
        if request.samples <= size:
            return self._compute(request.inputs)
        pieces = [
            self._compute(piece) for piece in zip(*(tensor.split(size) for tensor in request.inputs), strict=True)
        ]
        return [torch.cat(parts) for parts in zip(*pieces, strict=True)]


def _finish(requests: list[_Request], answers: list[Outputs | RequestError]) -> None:
    for request, answer in zip(requests, answers, strict=True):
        if request.answer.done():
            continue
        if isinstance(answer, RequestError):
            request.answer.set_exception(answer)
        else:
            request.answer.set_result(answer)
