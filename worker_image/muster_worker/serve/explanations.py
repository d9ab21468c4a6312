"""Explanations are computed one at a time, on a thread of their own: inference does not wait for them."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from muster_worker.serve.errors import OverloadedError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from torch import Tensor

    from muster_worker.serve.explain import GoesOn, Question
    from muster_worker.serve.model import Signature
    from muster_worker.serve.protocol import InferRequest

WAITING = 8
"""Explanations that may wait for the one that is computed: each takes as long as dozens of inferences."""


class Explains(Protocol):
    """Whoever computes an explanation, here or elsewhere."""

    question: Question

    def explain(self, inputs: Sequence[Tensor], target: Tensor | None, goes_on: GoesOn) -> list[Tensor]:
        """See Explainer, in explain.py."""


class Explanations:
    """For one event loop."""

    def __init__(self, explainer: Explains) -> None:
        self._explainer = explainer
        self._there = 0  # computed or waiting
        self._thread = ThreadPoolExecutor(1, "explain")
        self._loop = asyncio.get_running_loop()

    @property
    def signature(self) -> Signature:
        """What goes in and what comes out."""
        return self._explainer.question.signature

    def submit(self, request: InferRequest) -> asyncio.Future[list[Tensor]]:
        """The outputs of the signature; once it is late or cancelled, nothing more is computed for it.

        Raises RequestError where it cannot be explained, and OverloadedError when too many wait.
        """
        target = self._explainer.question.target(request)
        if self._there > WAITING:
            raise OverloadedError(f"{self._there - 1} explanations wait already: try again in a second")
        answer: asyncio.Future[list[Tensor]] = self._loop.create_future()
        self._there += 1
        self._thread.submit(self._outputs, request, target, answer).add_done_callback(
            lambda done: self._loop.call_soon_threadsafe(self._finish, answer, done)
        )
        return answer

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _outputs(
        self, request: InferRequest, target: Tensor | None, answer: asyncio.Future[list[Tensor]]
    ) -> list[Tensor]:
        return self._explainer.explain(request.inputs, target, goes_on=lambda: not answer.done())

    def _finish(self, answer: asyncio.Future[list[Tensor]], done: Future[list[Tensor]]) -> None:
        self._there -= 1
        if answer.done():
            return
        error = done.exception()
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(done.result())
