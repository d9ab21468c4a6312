"""What is told to end ends, even if it loses the word once."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from muster.control import tasks


@pytest.mark.parametrize("name", ["watcher for pods.v1@None", "worker for (pods.v1, 'uid')"])
async def test_kopfs_tasks_that_lose_a_cancellation_are_cancelled_again(name, monkeypatch):
    monkeypatch.setattr(tasks, "ASK_AGAIN", 0.01)

    async def loses_the_first() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    async def kopf() -> None:
        """At its end it cancels what it has started, once, and waits for it."""
        task = asyncio.create_task(loses_the_first(), name=name)
        try:
            await asyncio.Event().wait()
        finally:
            task.cancel()
            await asyncio.wait([task])

    running = asyncio.create_task(kopf())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.wait_for(tasks.end([running]), 5)
    assert running.cancelled()


async def test_a_task_that_has_failed_already_is_no_failure_of_the_end():
    async def fails() -> None:
        raise RuntimeError("broken")

    broken = asyncio.create_task(fails())
    await asyncio.wait([broken])
    await tasks.end([broken])
    assert isinstance(broken.exception(), RuntimeError)
