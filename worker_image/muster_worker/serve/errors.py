"""What a client is told when its request cannot be answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

INTERNAL = 500
"""From here on the fault is the server's."""

_LONGEST = 2000
"""Characters of a message that are told: beyond 8 kB, a gRPC client fails with words of its own."""

_OTHERS = 8
"""So many times fewer, where they are not all of ASCII: on its way by gRPC, one such has up to twelve."""


class RequestError(Exception):
    """The message is for whoever sent the request; `status` is that of HTTP."""

    status = 400

    def __init__(self, message: str = "") -> None:
        super().__init__(_shortened(message, _LONGEST if message.isascii() else _LONGEST // _OTHERS))


class NotFoundError(RequestError):
    status = 404


class WrongMethodError(RequestError):
    status = 405


class TooLargeError(RequestError):
    status = 413


class WrongEncodingError(RequestError):
    status = 415


class OverloadedError(RequestError):
    """So many requests wait that this one would wait too long."""

    status = 503


class NotReadyError(RequestError):
    status = 503


class TimedOutError(RequestError):
    status = 504


class ComputationError(RequestError):
    """The model itself failed."""

    status = INTERNAL


def _shortened(message: str, longest: int) -> str:
    """Its beginning and its end."""
    half = longest // 2
    return message if len(message) <= longest else f"{message[:half]} … {message[-half:]}"


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """It, what it comes of, and so on."""
    while error is not None:
        yield error
        error = error.__cause__


TRIES = 3
"""When so many processes have ended while they computed the same, it may be what they die of."""


class TooManyDeathsError(ComputationError):
    def __init__(self) -> None:
        super().__init__(f"{TRIES} processes have ended while they computed this")
