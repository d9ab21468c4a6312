"""A connection between the front and a rank, from which either learns within a moment that the other is gone.

Two threads that never compute carry it. What is to be said is sent in its order by one, which says that it is alive
where there was nothing else to say for a while; what comes is handed on by the other. So a peer that stands still never
blocks whoever has something to tell it.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import struct
import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from muster_worker.serve.group import wire
from muster_worker.serve.group.wire import Frame

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

BEAT = 0.25
"""Seconds after which a side that has nothing to say says so."""

SILENT = 1.0
"""Seconds of silence after which the other side is supposed to stand still."""

GONE = 5.0
"""Seconds of silence after which it is given up."""

_CHUNK = 1 << 20
_BEAT = Frame("beat")


class Link:
    """`hear` is called with each frame that comes, and `ended` once, when nothing more will; both by its thread."""

    def __init__(self, connection: socket.socket, hear: Callable[[Frame], None], ended: Callable[[], None]) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._hear, self._ended = hear, ended
        self._to_send: SimpleQueue[Frame | None] = SimpleQueue()
        self._heard = time.monotonic()
        self._sends = threading.Thread(target=self._send, daemon=True, name="sends")

    def start(self, gone: float = GONE) -> None:
        self.give_up_after(gone)
        self._sends.start()
        threading.Thread(target=self._receive, daemon=True, name="receives").start()

    def give_up_after(self, gone: float) -> None:
        """Seconds of silence that end it. The kernel counts: that this process was busy is nobody's silence."""
        limit = struct.pack("@ll", int(gone), int(gone % 1 * 1e6))
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)

    def send(self, frame: Frame) -> None:
        """Soon; nobody is told when it cannot be."""
        self._to_send.put(frame)

    def finish(self, seconds: float = 0.0) -> None:
        """Ends it once everything is sent, for which it waits for so many seconds."""
        self._to_send.put(None)
        self._sends.join(seconds)

    def close(self) -> None:
        """Ends it now."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._to_send.put(None)

    @property
    def silent(self) -> bool:
        """Whether nothing has come for a while. What lies there unread has come. Not to be asked after `ended`."""
        if time.monotonic() - self._heard < SILENT:
            return False
        unread = select.poll()
        unread.register(self._connection, select.POLLIN)
        return not unread.poll(0)

    def _send(self) -> None:
        with contextlib.suppress(OSError):
            while (frame := self._next()) is not None:
                for piece in wire.pieces(frame):
                    self._connection.sendall(piece)
        self.close()

    def _next(self) -> Frame | None:
        try:
            return self._to_send.get(timeout=BEAT)
        except Empty:
            return _BEAT

    def _receive(self) -> None:
        try:
            while True:
                frame = wire.read(self._bytes)
                if frame.kind != _BEAT.kind:
                    self._hear(frame)
        except (OSError, wire.BrokenFrameError):
            pass
        except Exception:
            log.exception("what came cannot be understood")
        finally:
            self.close()
            self._ended()
            self._sends.join()
            self._connection.close()

    def _bytes(self, count: int) -> bytearray:
        """Raises OSError when they do not come. Whoever announces them has no memory taken for what does not."""
        content, filled = bytearray(min(count, _CHUNK)), 0
        while filled < count:
            if filled == len(content):
                content.extend(bytes(min(count - filled, filled)))  # as much again as has come
            with memoryview(content) as view:
                received = self._connection.recv_into(view[filled:])
            if not received:
                raise ConnectionError("the other side has closed it")
            filled += received
            self._heard = time.monotonic()
        return content
