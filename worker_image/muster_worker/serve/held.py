"""gRPC's port, held while nobody serves: whoever comes meanwhile waits for the next process.

HTTP's server is given a socket that listens already; grpcio takes none. So the parent listens on the same port beside
it, and a filter of the kernel hands every connection to the second who listens there. That is grpcio, as long as there
is one; when its process is gone, connections wait in the parent's queue. The next process leads those to its own
server, byte for byte, until they end: after seconds, for the server asks its clients to connect anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct

from muster_worker.serve.listening import BACKLOG, listen

_ATTACH_REUSEPORT_CBPF = 51
_RETURN = 0x06
"""Of the kernel's classic filters (linux/filter.h): BPF_RET | BPF_K, for the number of who is given the connection."""

_CHUNK = 1 << 16


def hold(host: str, port: int) -> socket.socket | None:
    """Listen there for whoever comes while nobody else does; None where the kernel has no such filters.

    Raises OSError where it cannot listen at all.
    """
    held = listen(host, port, shared=True)
    second = ctypes.create_string_buffer(struct.pack("HBBI", _RETURN, 0, 0, 1))
    try:
        held.setsockopt(socket.SOL_SOCKET, _ATTACH_REUSEPORT_CBPF, struct.pack("HP", 1, ctypes.addressof(second)))
    except OSError:
        held.close()  # without the filter, every other connection would wait here for nobody
        return None
    return held


async def forward(held: socket.socket, host: str, port: int) -> asyncio.Server:
    """Lead who waits to the server that listens beside; to be closed before that one is."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there = await asyncio.open_connection(host or "localhost", port)
            await asyncio.gather(_copy(reader, there[1]), _copy(there[0], writer))
        writer.close()

    return await asyncio.start_server(one, sock=held, backlog=BACKLOG)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
