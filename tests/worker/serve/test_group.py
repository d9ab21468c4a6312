"""A replica of several processes, in pods that are processes here: what is answered, and what happens when some die."""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import time

import numpy as np
import pytest
import torch

from muster_worker.train.export import Trained, export_model
from tests.worker.serve.conftest import ORIGIN
from tests.worker.serve.pods import Load, ask, infer, until
from tests.worker.serve.pods import affine as sums
from tests.worker.serve.served import LIMIT
from tests.worker.serve.sleeping import Sleeper
from tests.worker.train.recipes import DataDependent

POINT = np.array([[1, 2, 3, 4]], dtype=np.float32)


@pytest.mark.long
@pytest.mark.parametrize(("ranks", "count"), [(1, 1), (2, 1), (4, 1), (2, 2), (4, 2)])
def test_a_group_answers_as_its_model_does_whatever_the_size_of_a_batch(group, affine, ranks, count):
    pods = group(affine, "--data", str(ranks), "--max-batch-size", "8", count=count)
    for samples in (1, 2, 3, 5, 8, 20):
        points = np.random.default_rng(samples).random((samples, 4), dtype=np.float32)
        status, found = infer(pods.port, points)
        assert status == 200, found
        np.testing.assert_allclose(found, sums(points), rtol=1e-5)
    known = {"processes": ranks, "absent": []} if ranks > 1 else None
    assert pods.state()["group"] == known


@pytest.mark.long
def test_a_rank_that_is_killed_under_load_costs_no_request(group, affine):
    pods = group(affine, "--data", "2", "--max-batch-size", "8")
    with Load(pods.port) as load:
        load.until_answered()
        pods.signal(signal.SIGKILL, "rank 1")
        assert until(lambda: not pods.is_ready()) < 1
        state = pods.state()
        assert (state["ready"], state["group"]["absent"]) == (False, [1])
        assert state["reason"].startswith("rank 1 (pod 0) ")
        load.until_answered()
        until(pods.is_ready)
        load.until_answered()
    assert load.wrong == []
    death = pods.state()["death"]
    assert (death["count"], death["exitCode"], death["rank"]) == (1, 137, 1)
    assert 0 < death["seconds"] < LIMIT


@pytest.mark.long
def test_while_nobody_is_there_to_compute_requests_wait(group, affine):
    pods = group(affine, "--data", "2")
    with Load(pods.port) as load:
        load.until_answered()
        for rank in ("rank 0", "rank 1"):
            pods.signal(signal.SIGKILL, rank)
        until(pods.is_ready)
        load.until_answered()
    assert load.wrong == []
    assert pods.state()["death"]["count"] == 2


@pytest.mark.long
def test_a_rank_that_stands_still_is_passed_over_and_forgiven(group, affine):
    pods = group(affine, "--data", "2")
    with Load(pods.port) as load:
        load.until_answered()
        stopped = pods.process("rank 0")
        pods.signal(signal.SIGSTOP, "rank 0")
        assert until(lambda: not pods.is_ready()) < 1.5
        assert pods.state()["reason"] == "rank 0 (pod 0) does not answer"
        load.until_answered()
        pods.signal(signal.SIGCONT, "rank 0")
        until(pods.is_ready)
    assert load.wrong == []
    assert pods.process("rank 0") == stopped
    assert pods.state()["death"] is None


@pytest.mark.long
def test_a_rank_that_stands_still_for_long_is_given_up(group, affine):
    pods = group(affine, "--data", "2")
    stopped = pods.process("rank 0")
    pods.signal(signal.SIGSTOP, "rank 0")
    until(lambda: pods.state()["reason"] == "rank 0 (pod 0) is not there")
    pods.signal(signal.SIGCONT, "rank 0")
    until(pods.is_ready)
    assert pods.process("rank 0") != stopped


@pytest.mark.long
def test_a_pod_beside_the_leader_may_be_killed_and_started_anew(group, affine):
    pods = group(affine, "--data", "4", count=2)
    with Load(pods.port) as load:
        load.until_answered()
        pods.pods[1].stop()
        # The ranks of a killed pod end one after the other, so not ready comes before both are absent.
        assert until(lambda: pods.state()["group"] == {"processes": 4, "absent": [2, 3]}) < 1
        assert not pods.is_ready()
        assert pods.state()["reason"] == "rank 2 (pod 1) is not there, rank 3 (pod 1) is not there"
        load.until_answered()
        pods.start_anew(1)
        until(pods.is_ready)
        load.until_answered()
    assert load.wrong == []


@pytest.mark.long
def test_when_the_front_dies_clients_wait_for_the_next(group, affine):
    pods = group(affine, "--data", "2", count=2)
    pods.signal(signal.SIGKILL, "the server")
    status, found = infer(pods.port, POINT)
    assert status == 200, found
    until(pods.is_ready)
    until(lambda: pods.is_ready(pod=1))
    death = pods.state()["death"]
    assert (death["count"], death["exitCode"], death["rank"]) == (1, 137, None)
    assert 0 < death["seconds"] < LIMIT


@pytest.mark.long
def test_a_leader_that_is_told_to_leave_answers_until_nobody_asks_and_its_ranks_end_last(group, affine):
    pods = group(affine, "--data", "2", count=2)
    pods.pods[0].process.terminate()
    until(lambda: not pods.is_ready())
    begun = time.monotonic()
    while time.monotonic() < begun + 4:
        assert infer(pods.port, POINT)[0] == 200
        time.sleep(0.05)
    pods.pods[1].process.terminate()
    assert pods.pods[0].process.wait(10) == 0
    assert pods.pods[1].process.wait(10) == 0


@pytest.mark.long
def test_a_member_that_is_told_to_leave_says_so_at_once_and_computes_until_the_leader_ends(group, affine):
    pods = group(affine, "--data", "2", count=2)
    pods.pods[1].process.terminate()
    assert until(lambda: not pods.is_ready()) < 1
    assert pods.state()["reason"] == "rank 1 (pod 1) leaves"
    assert pods.state()["group"]["absent"] == []
    assert infer(pods.port, POINT)[0] == 200
    pods.pods[0].process.send_signal(signal.SIGINT)
    assert pods.pods[0].process.wait(10) == 0
    assert pods.pods[1].process.wait(10) == 0


@pytest.mark.long
def test_a_member_does_not_stay_longer_than_leaving_may_take(group, affine):
    pods = group(affine, "--data", "2", "--drain-seconds", "1", count=2)
    pods.pods[1].process.terminate()
    assert pods.pods[1].process.wait(10) == 0
    until(lambda: pods.state()["reason"] == "rank 1 (pod 1) is not there")
    assert pods.state()["death"] is None


@pytest.mark.long
def test_a_leader_without_anybody_to_compute_does_not_linger(group, affine):
    pods = group(affine, "--data", "2")
    for rank in ("rank 0", "rank 1"):
        pods.signal(signal.SIGSTOP, rank)
    until(lambda: len(pods.state()["group"]["absent"]) == 2)
    begun = time.monotonic()
    pods.pods[0].process.terminate()
    assert pods.pods[0].process.wait(10) == 0
    assert time.monotonic() - begun < 4


def test_a_member_that_has_no_leader_waits_for_it_and_leaves_when_told(group, affine):
    pods = group(affine, "--data", "2", count=2, ready=False)
    pods.pods[0].stop()
    pods.pods[1].until("rank 1 waits for its front at 127.0.0.1:")
    status, answer = ask(pods.pods[1].port, "GET", "/v2/health/ready")
    assert (status, answer) == (503, {"error": "rank 1 (pod 1) has not come to its leader"})
    pods.pods[1].process.terminate()
    assert pods.pods[1].process.wait(10) == 0


@pytest.mark.long
def test_a_member_tells_of_the_group_and_leaves_inference_to_the_leader(group, affine):
    pods = group(affine, "--data", "2", count=2)
    until(lambda: pods.is_ready(pod=1))
    member = pods.pods[1]
    assert ask(member.port, "GET", "/v2/health/live") == (200, {"live": True})
    assert infer(member.port, POINT) == (503, "a member of group affine: its leader answers")
    state = pods.state(pod=1)
    assert state.keys() == pods.state().keys()
    assert (state["ready"], state["group"]) == (True, {"processes": 2, "absent": []})
    pods.signal(signal.SIGSTOP, "rank 0")
    until(lambda: not pods.is_ready(pod=1))
    assert pods.state(pod=1)["reason"] == "rank 0 (pod 0) does not answer"


@pytest.mark.long
def test_a_model_that_ranks_cannot_load_ends_all(group, tmp_path):
    """The recipe has another model than the weights are of, which the front does not notice: it loads none."""
    origin = ORIGIN | {"recipe": "tests.worker.train.recipes:Line", "config": {"epochs": 1}}
    export_model(tmp_path / "model", Trained(DataDependent(), (torch.ones(3, 4),), {}, origin), "token")
    (pod,) = group(tmp_path / "model", "--data", "2", ready=False).pods
    assert "are not those of tests.worker.train.recipes:Line" in pod.rest()
    assert pod.process.returncode == 2


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("--group", "other"), "it is refused: --group: found other, wanted affine, whose leader this is"),
        (("--data", "6"), "it is refused: rank 3 of 6 processes: group affine has 2"),
    ],
)
def test_a_process_of_another_group_is_refused_and_tried_again(group, affine, words, wanted):
    pods = group(affine, "--data", "2", count=2)
    pods.start_anew(1, *words)
    for _ in range(2):
        pods.pods[1].until(wanted)
    assert pods.pods[1].process.poll() is None


def test_whoever_speaks_otherwise_is_not_listened_to(group, affine):
    pods = group(affine, "--data", "2")
    for words in (b"GET / HTTP/1.1\r\n\r\n", struct.pack(">I", 2) + b"{}", struct.pack(">I", 4) + b"null"):
        with socket.create_connection(("127.0.0.1", pods.group_port), timeout=LIMIT) as stranger:
            stranger.sendall(words)
            with contextlib.suppress(ConnectionResetError):
                while stranger.recv(1 << 10):
                    pass
    assert infer(pods.port, POINT)[0] == 200
    assert pods.is_ready()


def test_a_request_that_ranks_die_of_fails_alone(group, tmp_path):
    origin = ORIGIN | {"recipe": "tests.worker.serve.sleeping:Dying"}
    export_model(tmp_path / "model", Trained(Sleeper(), (torch.ones(3, 4),), {}, origin), "token")
    pods = group(tmp_path / "model", "--data", "2")
    assert infer(pods.port, -POINT) == (500, "3 processes have ended while they computed this")
    assert infer(pods.port, POINT)[0] == 200
    assert pods.state()["death"]["count"] >= 3


@pytest.mark.long
def test_a_rank_whose_device_has_failed_is_followed_by_another(group, failing):
    pods = group(failing, "--data", "2")
    before = pods.process("rank 0"), pods.process("rank 1")
    assert infer(pods.port, -POINT) == (500, "the model failed: AcceleratorError: device-side assert triggered")
    for _ in range(4):
        assert infer(pods.port, POINT)[0] == 200
    until(pods.is_ready)
    after = pods.process("rank 0"), pods.process("rank 1")
    assert len({*before, *after}) == 3
    assert pods.state()["death"] is None


@pytest.mark.long
def test_a_computation_that_hangs_does_not_stay_in_the_way(group, sleeping):
    pods = group(sleeping, "--data", "2", "--request-seconds", "5", "--max-batch-size", "8")
    before = pods.process("rank 0"), pods.process("rank 1")
    assert infer(pods.port, np.concatenate([-POINT, -POINT]))[0] == 504
    until(pods.is_ready)
    assert not {pods.process("rank 0"), pods.process("rank 1")} & set(before)
    assert infer(pods.port, POINT)[0] == 200


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("--data", "3", "--pods", "2"), "make 3 processes, wanted a multiple of --pods 2"),
        (("--pods", "2"), "make 1 processes, wanted a multiple of --pods 2"),
        (("--data", "2", "--pods", "2", "--pod", "2"), "--pod: found 2, wanted a number below --pods 2"),
        (("--data", "2", "--pods", "2", "--pod", "1"), "--leader: missing, wanted the host of pod 0"),
        (("--data", "0"), "argument --data: found 0, wanted a whole number, at least 1"),
        (("--pod", "-1"), "argument --pod: found -1, wanted a whole number, at least 0"),
    ],
)
def test_a_group_that_cannot_be_is_named(serve, affine, words, wanted):
    served = serve(affine, *words, ready=False)
    assert wanted in served.rest()
    assert served.process.returncode == 2
