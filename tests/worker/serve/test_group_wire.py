"""Frames that come as they were sent, and bytes that are no frames."""

from __future__ import annotations

import io
import struct

import pytest
import torch

from muster_worker.serve.group import wire
from muster_worker.serve.group.wire import BrokenFrameError, Frame
from muster_worker.train.model_directory import DATATYPES


def sent(content):
    stream = io.BytesIO(content)
    return lambda count: bytearray(stream.read(count))


@pytest.mark.parametrize("dtype", DATATYPES)
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 4), (100, 1000)])
def test_a_frame_comes_as_it_was_sent(dtype, shape):
    tensor = (torch.rand(shape) * 2).to(dtype)
    frame = Frame("answer", {"task": 7}, [tensor, tensor.flatten()[::2]])
    found = wire.read(sent(b"".join(map(bytes, wire.pieces(frame)))))
    assert (found.kind, found.words) == (frame.kind, frame.words)
    for one, other in zip(found.tensors, frame.tensors, strict=True):
        assert one.dtype == dtype
        assert torch.equal(one, other)


def test_what_is_small_is_sent_in_one_piece():
    assert len(list(wire.pieces(Frame("beat")))) == 1
    assert len(list(wire.pieces(Frame("compute", {}, [torch.ones(2), torch.ones(3)])))) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack(">I", 1) + b"{",
        struct.pack(">I", 4) + b"null",
        struct.pack(">I", 2) + b"{}",
        struct.pack(">I", 57) + b'{"kind": "join", "words": {}, "tensors": [["OBJECT", [1]]]}',
    ],
)
def test_what_is_no_frame_is_refused(content):
    with pytest.raises(BrokenFrameError):
        wire.read(sent(content))
