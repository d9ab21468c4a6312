"""Waits for what no watch tells: asks again and again, with a limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


async def until(what: str, holds: Callable[[], Awaitable[bool]], limit: float, every: float = 0.5) -> None:
    try:
        async with asyncio.timeout(limit):
            while True:
                if await holds():
                    return
                await asyncio.sleep(every)
    except TimeoutError:
        raise AssertionError(f"{what}: not within {limit:.0f} s") from None
