"""Three real agents and their ranks: what happens to one is survived by the others, without leaving their pods."""

from __future__ import annotations

import os
import signal

import pytest

from tests.ports import free_ports
from tests.worker.agent.group import PROGRAMS, Group, eventually


@pytest.fixture
def started(tmp_path):
    """Starts groups, and shows their logs and ends them when the test is over."""
    groups = []

    def start(what="count", *, script=False, replicas=3, most=0, **environment):
        entry = None if script else "counting:run"
        workload = ["script", "--", str(PROGRAMS / "counting.py"), what] if script else ["recipe", what]
        if most:
            environment |= {"MUSTER_MIN_REPLICAS": "2", "MUSTER_MAX_REPLICAS": str(most)}
        group = Group(tmp_path, workload, replicas=replicas, most=most, entry=entry, environment=environment)
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
    """Waits until the group that this pod leads makes steps in that attempt; returns its state."""

    def found():
        state = pod.state()
        progress = state.get("progress") or {}
        ready = state.get("phase") == "Running" and state.get("attempt") == attempt and progress.get("step", 0) > beyond
        return state if ready else None

    return eventually(found, f"steps in attempt {attempt}")


def test_a_killed_rank_comes_back_with_the_whole_group_inside_the_same_pods(started):
    group = started()
    leader, second, third = group.pods
    trains(leader)
    os.kill(second.rank_pid(), signal.SIGKILL)
    state = trains(leader, attempt=2)
    record = state["restarts"][0]
    assert (record["attempt"], record["cause"], record["rank"], record["exitCode"]) == (1, "Signal", 1, 137)
    assert record["pod"] == "digits-1-1"
    assert record["recoverySeconds"] > 0
    assert state["worldSize"] == 3
    assert all(pod.process.poll() is None for pod in (leader, second, third))


@pytest.mark.long
def test_a_rank_that_raises_is_told_with_its_words(started):
    state = trains(started("raise").pods[0], attempt=2)
    record = state["restarts"][0]
    assert (record["cause"], record["rank"], record["exitCode"]) == ("ExitCode", 1, 1)
    assert "a bad batch" in record["message"]


@pytest.mark.long
@pytest.mark.parametrize("rank", [1, 0])
def test_the_successor_of_a_lost_pod_is_let_in_and_the_others_stay(started, rank):
    group = started()
    trains(group.pods[0])
    group.pods[rank].kill()
    successor = group.start(rank, attempt=2)
    state = trains(successor if rank == 0 else group.pods[0], attempt=2)
    assert state["restarts"] == []
    assert [member["pod"] for member in state["members"]] == [f"digits-{r}-{2 if r == rank else 1}" for r in range(3)]
    stayed = [pod for number, pod in enumerate(group.pods[:3]) if number != rank]
    assert all(pod.process.poll() is None for pod in stayed)


@pytest.mark.long
def test_a_zombie_is_refused_for_good_and_says_so(started):
    group = started()
    trains(group.pods[0])
    group.pods[1].kill()
    group.start(1, attempt=2)
    trains(group.pods[0], attempt=2)
    zombie = group.start(1, attempt=1, MUSTER_PORT=str(free_ports(1)[0]))
    assert zombie.wait() == 86
    assert "digits-1-1" in zombie.last_words["error"]
    trains(group.pods[0], attempt=2, beyond=group.pods[0].state()["progress"]["step"])


@pytest.mark.long
def test_a_pod_that_is_to_stop_saves_leaves_with_143_and_loses_no_step(started):
    group = started()
    trains(group.pods[0], beyond=5)
    group.pods[2].process.terminate()
    assert group.pods[2].wait() == 143
    saved = int((group.folder / "storage" / "step").read_text())
    group.start(2, attempt=2)
    assert trains(group.pods[0], attempt=2)["progress"]["resumedFromStep"] == saved


@pytest.mark.long
def test_the_whole_group_ends_with_zero_and_says_how_far_it_came(started):
    group = started(STEPS="20")
    assert [pod.wait() for pod in group.pods] == [0, 0, 0]
    words = group.pods[0].last_words
    assert words["phase"] == "Succeeded"
    assert words["progress"]["step"] == 20


@pytest.mark.long
def test_a_permanent_exit_code_ends_the_agents_with_that_code(started):
    group = started("exit2")
    assert group.pods[1].wait() == 2
    assert "2" in group.pods[1].last_words["error"]
    assert all(pod.wait() != 0 for pod in group.pods)


def test_any_other_exit_code_is_retried_in_place(started):
    record = trains(started("exit5").pods[0], attempt=2)["restarts"][0]
    assert (record["cause"], record["exitCode"]) == ("ExitCode", 5)


def test_where_rank_zero_decides_the_others_are_asked_to_leave_once_it_has_ended(started):
    group = started("rank0ends", MUSTER_SUCCESS_POLICY="Rank0")
    assert [pod.wait() for pod in group.pods] == [0, 0, 0]
    assert group.pods[0].last_words["phase"] == "Succeeded"


@pytest.mark.long
def test_a_rank_that_hangs_is_found_told_and_started_again(started):
    # A script's hang counts from its first step: however slow the machine, its start is none.
    group = started("hang", script=True, MUSTER_HANG_TIMEOUT_SECONDS="10")
    state = trains(group.pods[0], attempt=2)
    record = state["restarts"][0]
    assert (record["cause"], record["rank"], record["pod"]) == ("Hang", 1, "digits-1-1")
    assert "no progress was reported for 10 s: rank 1 was stopped by a signal" in record["message"]
    assert "in all_reduce" in group.pods[0].log, "the ranks that wait say where"


def of_size(pod, size, beyond=0):
    """Waits until the group that this pod leads makes steps with so many ranks; returns its state."""

    def found():
        state = pod.state()
        progress = state.get("progress") or {}
        ready = state.get("phase") == "Running" and state["worldSize"] == size and progress.get("step", 0) > beyond
        return state if ready else None

    return eventually(found, f"steps with {size} ranks")


@pytest.mark.long
def test_an_elastic_group_goes_on_without_a_lost_pod_and_takes_its_successor_in(started):
    group = started(most=4)
    leader = group.pods[0]
    before = of_size(leader, 3, beyond=5)["progress"]["step"]
    group.pods[1].kill()
    state = of_size(leader, 2)
    assert [member["rank"] for member in state["members"]] == [0, 2]
    record = state["restarts"][0]
    assert (record["cause"], record["pod"], record["attempt"]) == ("Silent", "digits-1-1", 1)
    group.start(1, attempt=2)
    state = of_size(leader, 3)
    assert [member["pod"] for member in state["members"]] == ["digits-0-1", "digits-1-2", "digits-2-1"]
    assert state["attempt"] == 2
    assert len(state["restarts"]) == 1, "who comes is no restart"
    assert state["progress"]["resumedFromStep"] >= 0
    assert before > 5


@pytest.mark.long
def test_an_elastic_group_that_lost_rank_0_goes_on_by_itself_and_hands_over_to_its_successor(started):
    group = started(most=4)
    of_size(group.pods[0], 3, beyond=5)
    group.pods[0].kill()
    state = of_size(group.pods[1], 2)
    assert [member["pod"] for member in state["members"]] == ["digits-1-1", "digits-2-1"]
    assert (state["coordinates"], state["attempt"]) == (True, 2)
    record = state["restarts"][0]
    assert (record["cause"], record["pod"], record["attempt"]) == ("Silent", "digits-0-1", 1)
    assert "digits-0-1 is lost: this pod coordinates the group" in group.pods[1].log
    leader = group.start(0, attempt=2)
    whole = of_size(leader, 3)
    assert [member["pod"] for member in whole["members"]] == ["digits-0-2", "digits-1-1", "digits-2-1"]
    assert (whole["attempt"], whole["restarts"]) == (2, []), "who comes is no restart"
    assert whole["progress"]["resumedFromStep"] >= state["progress"]["step"], "nothing that was trained is lost"
    assert not group.pods[1].state()["coordinates"]


@pytest.mark.long
def test_an_elastic_group_grows_and_shrinks_without_losing_a_step(started):
    group = started(replicas=2, most=4)
    leader = group.pods[0]
    of_size(leader, 2, beyond=5)
    for rank in (2, 3):
        group.start(rank, attempt=2, MUSTER_REPLICAS="4")
    grown = of_size(leader, 4)["progress"]
    assert grown["resumedFromStep"] > 5
    saved = int((group.folder / "storage" / "step").read_text())
    assert grown["resumedFromStep"] == saved
    for pod in group.pods[2:]:
        pod.process.terminate()
    assert [pod.wait() for pod in group.pods[2:]] == [143, 143]
    shrunk = of_size(leader, 2)
    assert shrunk["progress"]["resumedFromStep"] > saved
    assert shrunk["restarts"] == []


@pytest.mark.long
def test_a_torchrun_script_runs_unchanged(started):
    group = started(script=True, STEPS="20")
    assert [pod.wait() for pod in group.pods] == [0, 0, 0]
    assert group.pods[0].last_words["progress"]["totalSteps"] == 20


@pytest.mark.long
def test_the_metrics_tell_what_the_state_tells(started):
    leader = started().pods[0]
    trains(leader)
    metrics = leader.get("/metrics")
    assert "muster_worker_ranks_running 1.0" in metrics
    assert "muster_worker_attempt 1.0" in metrics
