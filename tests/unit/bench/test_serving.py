"""The arithmetic of the serving benchmark."""

from __future__ import annotations

import math

import pytest

from tests.bench.serving.figures import (
    BATCH,
    CONNECTIONS,
    GOAL_HEAD,
    KSERVE,
    MUSTER,
    MUSTER_DELAY,
    POINT_HEAD,
    SHARDS_HEAD,
    TORCHSERVE,
    Found,
    Point,
    Shards,
    percentile,
    point_of,
    point_row,
    same,
    shards_rows,
)


def point(server, rate, *, model="small", connections=16, p99=0.010):
    return Point(
        model,
        server,
        connections,
        rate,
        p50=0.001,
        p99=p99,
        sent=1400.0,
        received=300.0,
        busy=0.1,
        server_busy=1.0,
        memory=2**20,
    )


def verdicts(points, raw=1000.0):
    found = Found({name: {1: [raw], BATCH: [raw - 50, raw + 50]} for name in ("small", "medium")}, points, [])
    return {goal.what: goal.cells[-1] for goal in found.goals}


@pytest.mark.parametrize(
    ("share", "wanted"),
    [(0.50, 50.0), (0.99, 99.0), (1.0, 100.0), (0.001, 1.0)],
)
def test_so_many_of_a_hundred_are_not_above_a_percentile(share, wanted):
    assert percentile([float(number) for number in range(1, 101)], share) == wanted


def test_of_one_figure_every_percentile_is_that_one():
    assert percentile([7.0], 0.99) == 7.0


@pytest.mark.parametrize(("rate", "verdict"), [(500.0, "met"), (499.0, "**missed**")])
@pytest.mark.parametrize("peer", [TORCHSERVE, KSERVE])
def test_five_times_the_requests_of_a_peer_are_wanted(peer, rate, verdict):
    found = verdicts([point(MUSTER, rate), point(peer, 100.0)])
    assert found[f"small, 16 connections: {MUSTER} : {peer}"] == verdict


@pytest.mark.parametrize(("rate", "verdict"), [(800.0, "met"), (799.0, "**missed**")])
def test_of_torch_alone_its_mean_before_and_after_counts(rate, verdict):
    points = [point(MUSTER_DELAY, rate, model="medium", connections=CONNECTIONS[-1])]
    assert list(verdicts(points).values()) == [verdict]


def test_a_p99_above_the_peers_over_any_number_of_connections_is_a_miss():
    points = [
        *(point(MUSTER, 1.0, connections=count, p99=0.002) for count in CONNECTIONS),
        *(point(TORCHSERVE, 1.0, connections=count, p99=0.001 * count) for count in CONNECTIONS),
    ]
    found = verdicts(points)
    assert found[f"small, 1, 16 and 64 connections: p99 of {MUSTER}, of {TORCHSERVE}"] == "**missed**"


def test_one_that_is_left_out_has_no_goals():
    assert verdicts([point(MUSTER, 500.0)]) == {}


def test_rows_have_as_many_cells_as_their_head():
    points = [point(MUSTER, 500.0), point(TORCHSERVE, 100.0)]
    found = Found({"small": {1: [1.0], BATCH: [1.0]}}, points, [])
    assert all(len(goal.cells) == len(GOAL_HEAD) for goal in found.goals)
    assert len(point_row(points[0])) == len(POINT_HEAD)


def test_a_speed_up_is_over_the_fewest_processes_with_the_same_batches():
    shards = [
        Shards(count, batches, rate, 0.01)
        for count, batches, rate in [(1, False, 100.0), (1, True, 400.0), (2, False, 190.0), (2, True, 600.0)]
    ]
    rows = shards_rows(shards)
    assert [row[0] for row in rows] == ["1", "2"]
    assert rows[1] == ["2", "190", "1.90", "10.0", "600", "1.50", "10.0"]
    assert len(rows[1]) == len(SHARDS_HEAD)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [([1.0, 2.0], True), ([1.00005, 2.0], True), ([1.001, 2.0], False), ([1.0], False), ([1.0, math.nan], False)],
)
def test_an_answer_is_the_models_within_what_float32_explains(found, verdict):
    assert same(found, [1.0, 2.0]) is verdict


def test_a_figure_is_the_median_of_its_loads():
    loads = [
        {"rate": rate, "p50": 0.1, "p99": p99, "sent": 1.0, "received": 2.0, "busy": 0.1, "server_busy": 1.0}
        for rate, p99 in ((900.0, 0.3), (1000.0, 0.2), (100.0, 0.9))
    ]
    found = point_of("small", MUSTER, 16, loads, memory=7)
    assert (found.model, found.server, found.connections, found.memory) == ("small", MUSTER, 16, 7)
    assert (found.rate, found.p99, found.p50) == (900.0, 0.3, 0.1)
