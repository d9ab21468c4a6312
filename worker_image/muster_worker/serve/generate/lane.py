"""One batch of texts and the thread that computes it.

Between two steps, those leave that have come to their end, that nobody waits for any more, or whose time is over; then
those who wait take the slots that are free. When whoever computes is lost, its texts wait again, before all others: of
each all tokens are known, so that it goes on where it was.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from muster_worker.serve.errors import TRIES, RequestError, TooManyDeathsError
from muster_worker.serve.generate.batch import Batch
from muster_worker.serve.generate.decoder import LostError, failed

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster_worker.serve.generate.decoder import Decoder
    from muster_worker.serve.generate.generation import Generation
    from muster_worker.serve.generate.sampling import Chosen
    from muster_worker.serve.generate.sequence import Piece, Sequence
    from muster_worker.serve.generate.waiting import Waiting

    Outcome = tuple[Generation, Piece | RequestError]


class Lane:
    """`tell` is told by the thread what comes of the texts that it takes from `waiting`."""

    def __init__(self, decoder: Decoder, waiting: Waiting, tell: Callable[[list[Outcome]], None]) -> None:
        self.active: dict[Sequence, Generation] = {}
        """Those that have a slot, or are about to."""

        self._decoder, self._waiting, self._tell = decoder, waiting, tell
        self._batch = Batch(decoder)
        self._began: float | None = None

    def start(self) -> None:
        threading.Thread(target=self._run, name="generate", daemon=True).start()

    @property
    def free(self) -> int:
        return self._batch.free

    @property
    def able(self) -> bool:
        return self._decoder.able

    @property
    def computing_for(self) -> float:
        """Seconds since the step began that is going on."""
        began = self._began
        return time.monotonic() - began if began is not None else 0.0

    def _run(self) -> None:
        while self._waiting.until_work(self):
            try:
                self._compute()
            except LostError as error:
                self._put_back(died=error.died)
            self._began = None

    def _compute(self) -> None:
        """One more token of each, and the first ones of those who join."""
        for one in list(self.active.values()):
            if one.ended.done():
                self._leave(one)
        while (generation := self._waiting.take(self)) is not None:
            self._began = time.monotonic()
            self._tell([self._joined(generation)])
        if self.active:
            self._began = time.monotonic()
            self._tell([self._taken(self.active[sequence], chosen) for sequence, chosen in self._batch.step()])

    def _joined(self, generation: Generation) -> Outcome:
        try:
            chosen = self._batch.join(generation.sequence)
        except RequestError as error:
            del self.active[generation.sequence]
            return generation, error
        return self._taken(generation, chosen)

    def _taken(self, generation: Generation, chosen: Chosen | RequestError) -> Outcome:
        try:
            outcome = chosen if isinstance(chosen, RequestError) else generation.sequence.take(chosen)
        except Exception as error:  # noqa: BLE001 - the recipe makes texts of tokens
            outcome = failed(error)
        if isinstance(outcome, RequestError) or outcome.finish_reason is not None:
            self._leave(generation)
        return generation, outcome

    def _leave(self, generation: Generation) -> None:
        self._batch.leave(generation.sequence)
        del self.active[generation.sequence]

    def _put_back(self, *, died: bool) -> None:
        lost = list(self.active.values())
        self.active.clear()
        self._batch.clear()
        for generation in lost:
            generation.losses += died
        self._waiting.put_back(generation for generation in lost if generation.losses < TRIES)
        self._tell([(generation, TooManyDeathsError()) for generation in lost if generation.losses >= TRIES])
