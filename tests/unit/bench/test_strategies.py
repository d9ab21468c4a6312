"""The arithmetic of the benchmark of strategies."""

from __future__ import annotations

import socket

import pytest

from tests.bench.strategies.figures import of_checkpoints, of_servers, of_strategies
from tests.bench.strategies.measured import ALL_REDUCE, LIGHTNING, MUSTER, ONE, TORCHRUN, told
from tests.bench.throughput.clock import traffic


def rounds(*rates, megabytes=0.0):
    return [{"rate": rate, "bytes": megabytes * 1e6} for rate in rates]


def rows(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


RANKS = [
    {"steps": 10, "seconds": 5.0, "sent": 100, "received": 300},
    {"steps": 10, "seconds": 9.0, "sent": 200, "received": 0},
]


def test_the_first_rank_tells_the_time_and_all_tell_what_they_sent():
    assert told(RANKS, servers=False) == {"rate": 2.0, "bytes": 30.0}


def test_what_servers_get_was_sent_by_workers_who_have_no_clock():
    assert told(RANKS, servers=True) == {"rate": 2.0, "bytes": 60.0}


def test_a_strategy_is_held_against_one_process_and_against_others_of_its_round():
    found = {
        ONE: {MUSTER: rounds(2.0, 1.0), TORCHRUN: rounds(2.0, 1.0), LIGHTNING: rounds(2.0, 1.0)},
        "ddp, 2 ranks": {
            MUSTER: rounds(3.0, 1.5, megabytes=6.6),
            TORCHRUN: rounds(3.0, 1.5),
            LIGHTNING: rounds(6.0, 3.0),
        },
        "pipeline, 2 ranks": {MUSTER: rounds(3.0, 1.5), TORCHRUN: rounds(2.0, 1.0)},
    }
    _, ddp, pipeline = rows(of_strategies(found))
    assert ddp[:4] == ["ddp, 2 ranks", "2.25", "1.50", "6.60"]
    assert ddp[4:] == ["2.25", "1.000 (1.000 to 1.000)", "met", "4.50", "0.500 (0.500 to 0.500)", "**missed**"]
    assert pipeline[5:] == ["1.500 (1.500 to 1.500)", "met", "", "", ""]


def test_servers_are_held_against_all_reduce():
    found = {"chargpt": {ALL_REDUCE: rounds(4.0, megabytes=2), "1 server": rounds(3.0, megabytes=4)}}
    assert rows(of_servers(found))[1] == ["chargpt", "1 server", "3.00", "0.750 (0.750 to 0.750)", "4.00"]


@pytest.mark.parametrize(("rate", "verdict"), [(9.6, "met"), (9.4, "**missed**")])
def test_only_asynchronous_checkpoints_have_a_goal(rate, verdict):
    found = {"chargpt": {"none": rounds(10.0), "asynchronous": rounds(rate), "synchronous": rounds(5.0)}}
    none, asynchronous, synchronous = rows(of_checkpoints(found))
    assert none[3:] == ["", ""]
    assert asynchronous[-1] == verdict
    assert synchronous[3:] == ["100.0% (100.0% to 100.0%)", ""]


def test_traffic_is_what_connections_of_the_process_have_sent(tcp_pair):
    near, far = tcp_pair
    before = traffic()
    near.sendall(b"x" * 1000)
    assert far.recv(1000, socket.MSG_WAITALL) == b"x" * 1000
    sent, received = (now - then for now, then in zip(traffic(), before, strict=True))
    assert received == 1000
    assert sent in (0, 1000)  # counted once it is acknowledged


@pytest.fixture
def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
        with near, far:
            yield near, far
