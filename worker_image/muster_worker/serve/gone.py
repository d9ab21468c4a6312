"""Clients of HTTP that go before they are answered: nothing more is computed for them, as nothing is for gRPC's.

That is noticed where connections end: to listen beside each computation would cost those who stay.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from muster_worker.serve.errors import RequestError
from muster_worker.serve.service import CLIENT_GONE

if TYPE_CHECKING:
    from collections.abc import Iterator

_WAITS = "waits"
"""In the scope's `state`: what is called when the client goes, as long as somebody computes for it."""


class ClientHasGoneError(RequestError):
    """Nobody is told."""

    status = CLIENT_GONE


def client_goes(scope: dict[str, Any]) -> None:
    """To be called when the connection of this request ends."""
    give_up = scope["state"].pop(_WAITS, None)
    if give_up is not None:
        give_up()


@contextlib.contextmanager
def until_client_goes(scope: dict[str, Any]) -> Iterator[None]:
    """What is waited for within is cancelled once the client goes; raises ClientHasGoneError then."""
    task = asyncio.current_task()
    assert task is not None, "requests are answered by tasks"
    state = scope.setdefault("state", {})
    state[_WAITS] = task.cancel
    try:
        yield
    except asyncio.CancelledError:
        if _WAITS in state:  # somebody else has cancelled it
            raise
        task.uncancel()
        raise ClientHasGoneError from None
    finally:
        state.pop(_WAITS, None)
