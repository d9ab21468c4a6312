"""How tasks are ended, kopf's among them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

ASK_AGAIN = 0.5  # seconds that a cancelled task is given before it is cancelled again


async def end(tasks: Iterable[asyncio.Task[object]]) -> None:
    """Cancel these, and return when they have ended."""
    every = set(tasks)
    for task in every:
        task.cancel()
    pending = every
    while pending:
        _, pending = await asyncio.wait(pending, timeout=ASK_AGAIN)
        _cancel_again()
    await asyncio.gather(*every, return_exceptions=True)  # so that no failure counts as never looked at


def _cancel_again() -> None:
    """End what goes on though it was cancelled.

    kopf's watchers suppress a cancellation that comes between streams; its workers lose one that comes together with
    an event (`wait_for` before Python 3.12), and then wait for the next.
    """
    for task in asyncio.all_tasks():
        if task.get_name().startswith(("watcher for ", "worker for ")) and task.cancelling():
            task.cancel()
