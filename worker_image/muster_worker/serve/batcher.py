"""Requests that come at about the same time are computed together.

A batch is computed once it has `max_size` samples, or its first request has waited for `max_delay`, and fewer than
`at_once` others are being computed. Without a delay too those are together that came in the same turn of the loop, or
while another batch was computed: the more requests there are, the larger batches are, and one alone does not wait.
Computation has threads of its own, so that requests are taken in meanwhile. A model so small that a hop to a thread and
back takes longer than itself is computed where it is asked for, at the turn's end: to read what came, compute it and
answer it, each in a row, takes half of the time of doing so request by request, for no step drives the code of the
others out of the caches.

A request that has more samples than a batch is computed in pieces, of which each has its turn among the batches of
others. It has a thread even where the model is small, unless all of it takes no longer than the hop.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from muster_worker.serve.errors import ComputationError, OverloadedError, RequestError
from muster_worker.serve.generate.decoder import failed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future

    from torch import Tensor

    Outputs = list[Tensor]
    Answer = Outputs | RequestError | None
    """None: some of the request's samples are left to compute."""

    Compute = Callable[[Sequence[Tensor]], Outputs]

WORTH_A_THREAD = 0.0005
"""Seconds of computation from which on a thread is used: the hop takes about 0.0001."""

_TURN = 0.05
"""Seconds for which pieces of a request are computed one after the other, where nobody else waits."""

_JOINED = 1000
"""So many pieces become one tensor: each takes hundreds of bytes beside its numbers."""


class Watch(Protocol):
    """Is told of every batch: its samples, and the seconds that each of its requests waited."""

    def batch(self, samples: int, waited: Sequence[float]) -> None: ...


@dataclass(frozen=True, slots=True)
class Batching:
    """`spec.batching`, and how many requests may wait, and bytes of them, before more are refused."""

    max_size: int = 1
    max_delay: float = 0.0
    max_waiting: int = 1000
    max_waiting_bytes: int = 1 << 30


@dataclass(slots=True, eq=False)  # not frozen: that takes three times as long to make
class _Request:
    inputs: tuple[Tensor, ...]
    samples: int
    came: float
    answer: asyncio.Future[Outputs]
    shapes: list[torch.Size]
    """Of one sample of each input."""

    bytes: int
    """Of all inputs."""

    pieces: _Pieces | None = None
    """Once some are computed of one that has more samples than a batch."""


class _Pieces:
    """What is computed of a request, the first samples first."""

    def __init__(self) -> None:
        self.samples = 0
        self._parts: list[Outputs] = []
        self._single: list[Outputs] = []

    def add(self, outputs: Outputs, samples: int) -> None:
        self.samples += samples
        self._single.append(outputs)
        if len(self._single) == _JOINED:
            self._parts.append(_joined(self._single))
            self._single.clear()

    def joined(self) -> Outputs:
        return _joined([*self._parts, *self._single])


def _joined(parts: Iterable[Outputs]) -> Outputs:
    return [torch.cat(of_one) for of_one in zip(*parts, strict=True)]


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
        self._samples = self._bytes = 0
        self._at_once = at_once
        self._computing: list[float] = []  # when each began that is going on, the oldest first
        self._timer: asyncio.TimerHandle | None = None
        self._turn_ends = False  # and what came in it will be looked at
        self._thread = ThreadPoolExecutor(at_once, "compute")
        self._here = seconds < WORTH_A_THREAD
        """Whether a batch is computed by whoever calls."""

        in_time = WORTH_A_THREAD / seconds if seconds else math.inf
        self._most_here = max(self._max_size, in_time) if self._here else 0
        """Samples that a request may have to be computed so too."""

        self._loop = asyncio.get_running_loop()

    def submit(self, inputs: tuple[Tensor, ...]) -> asyncio.Future[Outputs]:
        """The outputs, or the ComputationError of this request; cancelled, it is not computed any more.

        Raises OverloadedError when too many wait.
        """
        if self._is_full:
            self._make_room()
        samples = inputs[0].shape[0] if self._batched else 1
        shapes = [tensor.shape[1:] for tensor in inputs]
        size = sum(tensor.nbytes for tensor in inputs)
        request = _Request(inputs, samples, self._loop.time(), self._loop.create_future(), shapes, size)
        self._append(request)
        if self._samples >= self._max_size and not self._here:
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
        self._at_once = 0  # nothing begins any more
        self._thread.shutdown(wait=False)

    @property
    def _is_full(self) -> bool:
        return len(self._waiting) >= self._batching.max_waiting or self._bytes >= self._batching.max_waiting_bytes

    def _make_room(self) -> None:
        """Raises OverloadedError where there is none."""
        if self._here:
            self._look()  # most waited for nothing but the turn's end
        if self._is_full:
            self._leave_out_gone()
        if self._is_full:
            raise OverloadedError(f"{len(self._waiting)} requests wait already: try again in a second")

    def _append(self, request: _Request) -> None:
        self._waiting.append(request)
        self._samples += request.samples
        self._bytes += request.bytes

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
            self._bytes -= request.bytes
            if not request.answer.done():
                taken.append(request)
                size += request.samples
        return taken

    def _leave_out_gone(self) -> None:
        """While a computation takes long, many may wait whom nobody waits for any more."""
        self._waiting = deque(request for request in self._waiting if not request.answer.done())
        self._samples = sum(request.samples for request in self._waiting)
        self._bytes = sum(request.bytes for request in self._waiting)

    def _fits(self, request: _Request, first: _Request, size: int) -> bool:
        return size + request.samples <= self._max_size and request.shapes == first.shapes

    def _start(self, requests: list[_Request]) -> None:
        if not requests:
            return
        now, first = self._loop.time(), requests[0]
        if first.pieces is None:
            waited = [now - request.came for request in requests]
            self._watch.batch(sum(request.samples for request in requests), waited)
        if first.samples <= self._most_here:
            answers = self._answers(requests)
            self._put_back(first, answers[0])
            _finish(requests, answers)
            return
        self._computing.append(now)
        self._thread.submit(self._answers, requests).add_done_callback(
            lambda done: self._loop.call_soon_threadsafe(self._computed, now, requests, done)
        )

    def _computed(self, began: float, requests: list[_Request], done: Future[list[Answer]]) -> None:
        error = done.exception()
        answers: list[Answer] = done.result() if error is None else [failed(error) for _ in requests]
        self._computing.remove(began)
        self._put_back(requests[0], answers[0])
        self._look()
        _finish(requests, answers)

    def _put_back(self, first: _Request, answer: Answer) -> None:
        """Behind whoever waits, where samples are left to compute: then it was alone."""
        if answer is None:
            self._append(first)

    def _answers(self, requests: list[_Request]) -> list[Answer]:
        """To each of them. Where a batch fails each is tried alone: only those fail that cannot be computed."""
        try:
            return self._together(requests)
        except Exception as error:  # noqa: BLE001 - of a model whose outputs are not as many as its samples, too
            told = error if isinstance(error, RequestError) else failed(error)
            if len(requests) == 1 or not isinstance(told, ComputationError):
                return [told for _ in requests]
            return [answer for request in requests for answer in self._answers([request])]

    def _together(self, requests: list[_Request]) -> list[Answer]:
        if len(requests) == 1:
            return [self._alone(requests[0])]
        inputs = [torch.cat(parts) for parts in zip(*(request.inputs for request in requests), strict=True)]
        lengths = [request.samples for request in requests]
        outputs = [output.split(lengths) for output in self._compute(inputs)]
        return [list(parts) for parts in zip(*outputs, strict=True)]

    def _alone(self, request: _Request) -> Outputs | None:
        """Of more samples than a batch, pieces until the time is over, others wait or nobody does: then None."""
        if request.samples <= self._max_size:
            return self._compute(request.inputs)
        size, end = self._max_size, time.monotonic() + _TURN
        pieces = request.pieces = request.pieces or _Pieces()
        while True:
            piece = [tensor[pieces.samples : pieces.samples + size] for tensor in request.inputs]
            pieces.add(self._compute(piece), len(piece[0]))
            if pieces.samples == request.samples:
                return pieces.joined()
            if self._waiting or request.answer.done() or time.monotonic() > end:
                return None


def _finish(requests: list[_Request], answers: list[Answer]) -> None:
    for request, answer in zip(requests, answers, strict=True):
        if answer is None or request.answer.done():
            continue
        if isinstance(answer, RequestError):
            request.answer.set_exception(answer)
        else:
            request.answer.set_result(answer)
