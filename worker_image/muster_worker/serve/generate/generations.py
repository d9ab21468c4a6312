"""Generation for whoever asks: a thread computes, the event loop hands out what comes of it.

Between two steps, those leave that have come to their end, that nobody waits for any more, or whose time is over; then
those who wait take the slots that are free.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from muster_worker.serve.errors import OverloadedError, RequestError
from muster_worker.serve.generate.batch import Batch, failed
from muster_worker.serve.generate.sequence import Sequence

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from muster_worker.serve.deadlines import Deadlines
    from muster_worker.serve.generate.parameters import Parameters
    from muster_worker.serve.generate.sampling import Chosen
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


class Generation:
    """The pieces of one text, as they come."""

    def __init__(self, sequence: Sequence, came: float) -> None:
        self.sequence = sequence
        self.came: float | None = came
        """By the monotonic clock; None once its first token is there."""

        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Is cancelled where nobody waits any more, and has the error that it ended with."""

        self._pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
        self.ended.add_done_callback(lambda _: self._pieces.put_nowait(None))

    def give(self, piece: Piece) -> None:
        if self.ended.done():
            return
        self._pieces.put_nowait(piece)
        if piece.finish_reason is not None:
            self.ended.set_result(None)

    def fail(self, error: RequestError) -> None:
        if not self.ended.done():
            self.ended.set_exception(error)

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """Until its end; raises RequestError."""
        try:
            while (piece := await self._pieces.get()) is not None:
                yield piece
            self.ended.result()
        finally:
            self.ended.cancel()


class Generations:
    """For one event loop. `slots`: sequences that are computed together."""

    def __init__(self, model: LanguageModel, slots: int, watch: Watch, deadlines: Deadlines) -> None:
        self._model, self._watch, self._deadlines = model, watch, deadlines
        self._batch = Batch(model, slots)
        self._most_waiting = WAITING * slots
        self._loop = asyncio.get_running_loop()
        self._encoder = ThreadPoolExecutor(1, "encode")
        self._waiting: deque[Generation] = deque()
        self._active: dict[Sequence, Generation] = {}
        self._began: float | None = None
        self._closed = False
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="generate", daemon=True).start()

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
        with self._changed:
            self._waiting.append(generation)
            self._changed.notify()
        return generation

    @property
    def active(self) -> int:
        """Sequences that have a slot."""
        return len(self._active)

    @property
    def waiting(self) -> int:
        """Sequences that have none yet."""
        return len(self._waiting)

    @property
    def computing_for(self) -> float:
        """Seconds since the step began that is going on."""
        began = self._began
        return time.monotonic() - began if began is not None else 0.0

    def close(self) -> None:
        self._encoder.shutdown(wait=False, cancel_futures=True)
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _check_room(self) -> None:
        if len(self._waiting) >= self._most_waiting:
            raise OverloadedError(f"{len(self._waiting)} texts wait already to be generated: try again in a second")

    def _run(self) -> None:
        """The thread that computes."""
        while self._wait_for_work():
            self._tell(self._join())
            if self._active:
                self._began = time.monotonic()
                self._tell([self._taken(sequence, chosen) for sequence, chosen in self._batch.step()])
            self._began = None

    def _wait_for_work(self) -> bool:
        """False once nothing is to be done any more. Those who have gone leave."""
        for generation in list(self._active.values()):
            if generation.ended.done():
                self._leave(generation)
        with self._changed:
            while not (self._waiting or self._active or self._closed):
                self._changed.wait()
            return not self._closed

    def _join(self) -> list[tuple[Generation, Piece | RequestError]]:
        """Those who wait, the oldest first, as long as there are slots."""
        outcomes: list[tuple[Generation, Piece | RequestError]] = []
        while self._batch.free and self._waiting:
            generation = self._waiting.popleft()
            if generation.ended.done():
                continue
            self._began = time.monotonic()
            try:
                chosen = self._batch.join(generation.sequence)
            except RequestError as error:
                outcomes.append((generation, error))
                continue
            self._active[generation.sequence] = generation
            outcomes.append(self._taken(generation.sequence, chosen))
        return outcomes

    def _taken(self, sequence: Sequence, chosen: Chosen | RequestError) -> tuple[Generation, Piece | RequestError]:
        generation = self._active[sequence]
        try:
            outcome = chosen if isinstance(chosen, RequestError) else sequence.take(chosen)
        except Exception as error:  # noqa: BLE001 - the recipe makes texts of tokens
            outcome = failed(error)
        if isinstance(outcome, RequestError) or outcome.finish_reason is not None:
            self._leave(generation)
        return generation, outcome

    def _leave(self, generation: Generation) -> None:
        self._batch.leave(generation.sequence)
        del self._active[generation.sequence]

    def _tell(self, outcomes: list[tuple[Generation, Piece | RequestError]]) -> None:
        if not outcomes:
            return
        try:
            self._loop.call_soon_threadsafe(self._hand_out, outcomes)
        except RuntimeError:  # the loop is closed: nobody is there to be told
            self._closed = True

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
