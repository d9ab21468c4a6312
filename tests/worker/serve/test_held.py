"""gRPC's port, while nobody serves and when somebody does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from muster_worker.serve.held import forward, hold
from muster_worker.serve.listening import listen
from tests.ports import free_ports
from tests.worker.serve.served import LIMIT
from tests.worker.serve.test_grpc import points
from tests.worker.serve.test_server import server_of, until


@pytest.fixture(params=["", "127.0.0.1"])
def host(request):
    return request.param


@pytest.fixture
def held(host):
    (port,) = free_ports(1)
    one = hold(host, port)
    assert one is not None, "no filter"
    with one:
        yield one


def accepted(listening):
    listening.settimeout(LIMIT)
    connection, _ = listening.accept()
    return connection


def test_connections_wait_only_while_nobody_listens_beside(host, held):
    where = ("127.0.0.1", held.getsockname()[1])
    for _ in range(3):
        with socket.create_connection(where), accepted(held):
            pass
        with listen(host, where[1], shared=True) as beside:
            for _ in range(20):
                with socket.create_connection(where), accepted(beside):
                    pass


def test_who_waited_is_led_to_the_server_both_ways(host, held):
    port = held.getsockname()[1]

    async def shout(reader, writer):
        writer.write((await reader.readline()).upper())
        await reader.read()
        writer.close()

    async def talk():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"waits for the next\n")
        server = await asyncio.start_server(shout, sock=listen(host, port, shared=True))
        async with asyncio.timeout(LIMIT), server, await forward(held.dup(), host, port):
            answer = await reader.readline()
            writer.close()
            return answer

    assert asyncio.run(talk()) == b"WAITS FOR THE NEXT\n"


@pytest.mark.long
@pytest.mark.parametrize("connected", [True, False], ids=["a connection breaks", "a new connection"])
def test_who_asks_while_there_is_nobody_is_answered_by_the_next_process(serve, affine, connected):
    served = serve(affine)
    array = np.ones((1, 4), np.float32)
    with contextlib.closing(served.grpc_client()) as client:
        assert not connected or client.is_server_ready()
        first = server_of(served.process.pid)
        os.kill(first, signal.SIGKILL)
        until(lambda: server_of(served.process.pid) not in {None, first})
        if connected:
            with contextlib.suppress(InferenceServerException):
                client.is_server_live()  # may still be on its way to whoever died
        with ThreadPoolExecutor(8) as many:
            answers = list(many.map(lambda _: client.infer("affine", points(array)).as_numpy("output"), range(8)))
        assert all(answer.tolist() == [[4.0, 5.0]] for answer in answers)
    assert server_of(served.process.pid) != first
