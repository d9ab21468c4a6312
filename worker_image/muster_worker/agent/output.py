"""What the ranks print, line by line with the rank in front, on the agent's own standard output."""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
from collections import deque
from dataclasses import dataclass, field

LINES_KEPT = 80
LONGEST_LINE = 64 * 1024


@dataclass(slots=True)
class _Stream:
    prefix: bytes
    pending: bytes = b""
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=LINES_KEPT))
    ended: threading.Event = field(default_factory=threading.Event)


class Output:
    """One thread that reads all ranks' pipes. Standard output and error share a pipe, so their order is kept.

    `before` is written ahead of whatever is written, to wipe a line that somebody else keeps at the bottom.
    """

    def __init__(self, descriptor: int = 1, before: bytes = b"") -> None:
        self._descriptor = descriptor
        self._before = before
        self._writing = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._streams: dict[str, _Stream] = {}
        self._wake_read, self._wake_write = os.pipe()
        self._selector.register(self._wake_read, selectors.EVENT_READ)

    def start(self) -> None:
        """Before it, streams can be opened, but nobody reads them."""
        threading.Thread(target=self._run, name="output", daemon=True).start()

    def say(self, message: str) -> None:
        """A line of the agent's own."""
        for line in message.splitlines():
            self._write(b"[agent] " + line.encode(errors="backslashreplace") + b"\n")

    def open(self, label: str) -> int:
        """A new pipe's end to write to. What is written there is printed with `[label] ` in front."""
        read_end, write_end = os.pipe()
        stream = self._streams[label] = _Stream(b"[" + label.encode() + b"] ")
        self._selector.register(read_end, selectors.EVENT_READ, stream)
        os.write(self._wake_write, b"w")
        return write_end

    def tail(self, label: str, limit: float) -> list[str]:
        """The last lines of a stream whose process has ended; waits up to `limit` seconds for what is on its way."""
        stream = self._streams.get(label)
        if stream is None:
            return []
        stream.ended.wait(limit)
        return list(stream.tail)

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    os.read(self._wake_read, 4096)
                else:
                    self._read(key.fd, key.data)

    def _read(self, descriptor: int, stream: _Stream) -> None:
        try:
            piece = os.read(descriptor, 65536)
        except OSError:
            piece = b""
        if not piece:
            self._selector.unregister(descriptor)
            os.close(descriptor)
            self._print(stream, [stream.pending] if stream.pending else [])
            stream.ended.set()
            return
        *lines, stream.pending = (stream.pending + piece).split(b"\n")
        if len(stream.pending) > LONGEST_LINE:
            lines.append(stream.pending)
            stream.pending = b""
        self._print(stream, lines)

    def _print(self, stream: _Stream, lines: list[bytes]) -> None:
        stream.tail.extend(line.decode(errors="replace") for line in lines)
        if lines:
            self._write(b"".join(stream.prefix + line + b"\n" for line in lines))

    def _write(self, text: bytes) -> None:
        with self._writing, contextlib.suppress(OSError):  # nobody reads any more: training goes on
            text = self._before + text
            while text:
                text = text[os.write(self._descriptor, text) :]
