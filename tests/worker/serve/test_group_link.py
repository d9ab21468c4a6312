"""A connection between the processes of a group, by which anybody may come."""

from __future__ import annotations

import json
import socket
import struct
import threading
import tracemalloc

import pytest
import torch

from muster_worker.serve.group.link import Link
from muster_worker.serve.group.wire import Frame, pieces
from tests.worker.serve.fake_ranks import LIMIT


@pytest.fixture
def heard():
    """A socket, the frames that a link hears from it, and whether that has ended."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = socket.create_connection(listening.getsockname())
        frames, ended = [], threading.Event()
        Link(listening.accept()[0], frames.append, ended.set).start()
        yield peer, frames, ended
        peer.close()
        assert ended.wait(LIMIT)


def test_what_is_large_comes_as_it_was_sent(heard):
    peer, frames, ended = heard
    tensor = torch.arange(5 << 20)
    for piece in pieces(Frame("compute", {"task": 7}, [tensor])):
        peer.sendall(piece)
    peer.shutdown(socket.SHUT_WR)
    assert ended.wait(LIMIT)
    (frame,) = frames
    assert (frame.kind, frame.words) == ("compute", {"task": 7})
    assert torch.equal(frame.tensors[0], tensor)


def test_what_is_announced_takes_no_memory_before_it_comes(heard):
    peer, frames, ended = heard
    header = json.dumps({"kind": "join", "words": {}, "tensors": [["UINT8", [1 << 28]]]}).encode()
    tracemalloc.start()
    try:
        peer.sendall(struct.pack(">I", len(header)) + header + b"no more")
        peer.shutdown(socket.SHUT_WR)
        assert ended.wait(LIMIT)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert frames == []
    assert most < 1 << 24
