"""One text that somebody waits for: its pieces, as they come."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from muster_worker.serve.errors import RequestError
    from muster_worker.serve.generate.sequence import Piece, Sequence


class Generation:
    """For one event loop; other threads may ask whether it has `ended`."""

    def __init__(self, sequence: Sequence, came: float) -> None:
        self.sequence = sequence
        self.came: float | None = came
        """By the monotonic clock; None once its first token is there."""

        self.losses = 0
        """How often whoever computed it has died."""

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
