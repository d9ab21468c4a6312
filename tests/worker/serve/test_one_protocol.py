"""Clients that would rather speak another protocol are answered in this one."""

from __future__ import annotations

import http.client
import json
import socket

import pytest

LIMIT = 10
BODY = json.dumps({"inputs": [{"name": "points", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}).encode()
H2C = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQCAAAAAAIAAAAA"}
WEBSOCKET = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-key": "AAAA"}


@pytest.fixture(scope="module")
def served(serve_for_module, affine):
    return serve_for_module(affine, "--name", "affine")


@pytest.mark.parametrize("offer", [H2C, WEBSOCKET])
def test_a_request_that_offers_another_protocol_is_answered_by_this_one(served, offer):
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=LIMIT)
    for _ in range(2):
        connection.request("POST", "/v2/models/affine/infer", BODY, offer)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["outputs"][0]["data"]) == (200, [10.0, 11.0])
    connection.close()


def test_it_may_come_in_pieces_and_its_body_stays_as_it_is(served):
    body = BODY.replace(b"}]}", b'}], "id": "\\r\\nUpgrade: it"}')
    lines = ["POST /v2/models/affine/infer HTTP/1.1", f"Content-Length: {len(body)}", *map(": ".join, H2C.items())]
    with socket.create_connection(("127.0.0.1", served.port), timeout=LIMIT) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in (*(f"{line}\r\n".encode() for line in lines), b"\r\n", body[:9], body[9:]):
            connection.sendall(piece)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert (answer.status, json.loads(answer.read())["id"]) == (200, "\r\nUpgrade: it")
