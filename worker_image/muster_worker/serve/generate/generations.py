"""Generation for whoever asks: threads compute, the event loop hands out what comes of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from muster_worker.serve.errors import OverloadedError, RequestError
from muster_worker.serve.generate.generation import Generation
from muster_worker.serve.generate.lane import Lane
from muster_worker.serve.generate.sequence import Sequence
from muster_worker.serve.generate.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from muster_worker.serve.deadlines import Deadlines
    from muster_worker.serve.generate.decoder import Decoder
    from muster_worker.serve.generate.parameters import Parameters
    from muster_worker.serve.generate.sequence import Piece
    from muster_worker.train.language_model import LanguageModel

SLOTS = 8
"""Sequences that are computed together at least, whatever the size of a batch of inference: one that waits for the end
of another waits for long."""

WAITING = 8
"""Sequences that may wait, for each slot. Others are better off at another replica."""


class Watch(Protocol):
    """Is told what is generated: `seconds` from a request to its first token; tokens of one step."""

    def first_token(self, seconds: float) -> None: ...

    def tokens(self, count: int) -> None: ...


class Generations:
    """For one event loop. Each decoder computes a batch of its own; `model` encodes and decodes texts."""

    def __init__(self, model: LanguageModel, decoders: Iterable[Decoder], watch: Watch, deadlines: Deadlines) -> None:
        self._model, self._watch, self._deadlines = model, watch, deadlines
        self._loop = asyncio.get_running_loop()
        self._encoder = ThreadPoolExecutor(1, "encode")
        self._waiting = Waiting()
        self._lanes = [Lane(decoder, self._waiting, self._tell) for decoder in decoders]
        self._most_waiting = WAITING * sum(lane.free for lane in self._lanes)
        self._waiting.serve(self._lanes)
        for lane in self._lanes:
            lane.start()

    async def generate(self, text: str, parameters: Parameters) -> AsyncGenerator[Piece, None]:
        """What follows the text, as it comes; whoever stops asking frees its slot.

        Raises RequestError where there is nothing to go on from, or no more comes; OverloadedError where too many wait.
        """
        generation = await self._submitted(text, parameters)
        async with contextlib.aclosing(generation.pieces()) as pieces:
            async for piece in pieces:
                yield piece

    async def _submitted(self, text: str, parameters: Parameters) -> Generation:
        self._check_room()
        came = time.monotonic()
        # Of a long text it takes long, and whoever else is answered here would wait.
        sequence = await self._loop.run_in_executor(self._encoder, Sequence, self._model, text, parameters)
        self._check_room()
        generation = Generation(sequence, came)
        self._deadlines.watch(generation.ended)
        self._waiting.add(generation)
        return generation

    @property
    def active(self) -> int:
        """Sequences that have a slot."""
        return sum(len(lane.active) for lane in self._lanes)

    @property
    def waiting(self) -> int:
        """Sequences that have none yet."""
        return len(self._waiting)

    @property
    def computing_for(self) -> float:
        """Seconds since the oldest step began that is going on."""
        return max(lane.computing_for for lane in self._lanes)

    def close(self) -> None:
        self._encoder.shutdown(wait=False, cancel_futures=True)
        self._waiting.close()

    def _check_room(self) -> None:
        if len(self._waiting) >= self._most_waiting:
            raise OverloadedError(f"{len(self._waiting)} texts wait already to be generated: try again in a second")

    def _tell(self, outcomes: list[tuple[Generation, Piece | RequestError]]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._hand_out, outcomes)
        except RuntimeError:  # the loop is closed: nobody is there to be told
            self._waiting.close()

    def _hand_out(self, outcomes: list[tuple[Generation, Piece | RequestError]]) -> None:
        now = time.monotonic()
        count = 0
        for generation, outcome in outcomes:
            if isinstance(outcome, RequestError):
                generation.fail(outcome)
                continue
            count += 1
            if generation.came is not None:
                self._watch.first_token(now - generation.came)
                generation.came = None
            generation.give(outcome)
        self._watch.tokens(count)
