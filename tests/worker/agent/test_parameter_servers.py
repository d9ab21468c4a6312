"""Agents of parameter servers and workers: a worker's end is its own, a server's is that of all servers."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.ports import free_ports
from tests.worker.agent.group import PROGRAMS, ROOT, Group, eventually


@pytest.fixture
def started(tmp_path):
    """Starts two servers and two workers, and shows their logs and ends them when the test is over."""
    groups = []

    def start(epochs=100_000, **environment):
        environment |= {
            "PYTHONPATH": os.pathsep.join((str(ROOT / "worker_image"), str(PROGRAMS))),
            "MUSTER_PARAMETER_SERVERS": ",".join(f"127.0.0.1:{port}" for port in free_ports(2)),
            "MUSTER_STRATEGY": json.dumps({"type": "parameterServer", "parameterServers": 2}),
            "MUSTER_RECIPE_CONFIG": json.dumps({"epochs": epochs, "batchSize": 16}),
            "MUSTER_CHECKPOINT": json.dumps({"everySteps": 10}),
        }
        group = Group(tmp_path, ["recipe", "served:Plane"], replicas=4, environment=environment)
        groups.append(group)
        group.start_all()
        return group

    yield start
    for group in groups:
        try:
            group.close()
        finally:
            print(group.logs())


def trains(pod, attempt=1, beyond=0):
    def found():
        state = pod.state()
        step = (state.get("progress") or {}).get("step", 0)
        return state if state.get("phase") == "Running" and state["attempt"] == attempt and step > beyond else None

    return eventually(found, f"steps in attempt {attempt} beyond {beyond}", limit=60)


def processes(pods):
    """Of each pod; the servers train with the first worker that comes, before the other's is there."""
    eventually(lambda: all(pod.rank_pid() for pod in pods), "a process of each rank", limit=30)
    return [pod.rank_pid() for pod in pods]


@pytest.mark.long
def test_a_killed_worker_comes_back_by_itself_and_the_others_go_on(started):
    group = started()
    leader = group.pods[0]
    trains(leader, beyond=5)
    before = processes(group.pods)
    os.kill(before[2], signal.SIGKILL)
    state = trains(leader, attempt=2, beyond=leader.state()["progress"]["step"])
    eventually(lambda: group.pods[2].rank_pid() != before[2], "the worker's new process", limit=30)
    assert [pod.rank_pid() for number, pod in enumerate(group.pods) if number != 2] == [before[0], before[1], before[3]]
    (record,) = state["restarts"]
    assert (record["cause"], record["rank"], record["pod"], record["attempt"]) == ("Signal", 2, "digits-2-1", 1)
    assert record["stepsLost"] == 0
    assert state["progress"]["resumedFromStep"] == 0


@pytest.mark.long
def test_the_successor_of_a_lost_worker_is_let_into_the_running_round(started):
    group = started()
    leader = group.pods[0]
    trains(leader, beyond=5)
    group.pods[3].kill()
    trains(leader, beyond=leader.state()["progress"]["step"] + 10)
    group.start(3, attempt=2)
    state = trains(leader, attempt=2)
    assert {member["pod"] for member in state["members"]} >= {"digits-3-2"}
    assert state["restarts"] == [], "it was counted by whoever made the pod"
    assert state["progress"]["resumedFromStep"] == 0


@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
def test_a_lost_server_has_the_servers_go_back_and_the_workers_wait(started, rank):
    group = started()
    trains(group.pods[0], beyond=25)
    before = processes(group.pods[2:])
    group.pods[rank].kill()
    leader = group.start(rank, attempt=2) if rank == 0 else group.pods[0]
    if rank:
        group.start(rank, attempt=2)
    state = trains(leader, attempt=2, beyond=30)
    assert state["progress"]["resumedFromStep"] >= 20
    assert [pod.rank_pid() for pod in group.pods[2:4]] == before, "the workers have only waited"


@pytest.mark.long
def test_a_killed_server_comes_back_inside_its_pod(started):
    group = started()
    trains(group.pods[0], beyond=15)
    before = processes(group.pods[2:])
    os.kill(group.pods[1].rank_pid(), signal.SIGKILL)
    state = trains(group.pods[0], attempt=2, beyond=20)
    (record,) = state["restarts"]
    assert (record["cause"], record["rank"], record["pod"]) == ("Signal", 1, "digits-1-1")
    assert [pod.rank_pid() for pod in group.pods[2:]] == before


@pytest.mark.long
def test_all_end_with_zero(started):
    group = started(epochs=3)
    assert [pod.wait(60) for pod in group.pods] == [0] * 4
    words = group.pods[0].last_words
    assert (words["phase"], words["progress"]["step"], words["worldSize"]) == ("Succeeded", 12, 4)
    assert words["metrics"]["pushedBytes"] > 0


@pytest.mark.long
def test_all_that_are_told_to_stop_leave_a_checkpoint(started):
    group = started()
    trains(group.pods[0], beyond=5)
    for pod in reversed(group.pods):
        pod.process.terminate()
    assert [pod.wait(60) for pod in group.pods] == [143] * 4
    assert sorted((group.folder / "storage" / "checkpoints").iterdir())


@pytest.mark.long
def test_a_worker_that_fails_again_and_again_is_told_each_time(started):
    group = started(FAILS="3")

    def often():
        return [one for one in group.pods[0].state().get("restarts", []) if one["rank"] == 3][2:]

    record = eventually(often, "three failures of one worker", limit=90)[0]
    assert "ValueError: a bad graphics card" in record["message"]
    trains(group.pods[0], attempt=group.pods[0].state()["attempt"], beyond=5)
