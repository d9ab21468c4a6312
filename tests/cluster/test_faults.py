"""A training job goes on when its processes, pods, nodes or the operator die."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from tests.cluster import jobs
from tests.cluster.kube import Kube, kubectl, local_cluster, wait_for
from tests.cluster.nodes import keep_workers_off_the_leader, node_of_the_leader, ready
from tests.cluster.training import KILL_RANK, runs, wait_for_restart, wait_until_it_trains


def uids(kube: Kube) -> dict[str, str]:
    return {name: pod["metadata"]["uid"] for name, pod in kube.pods("digits").items()}


@pytest.mark.long
def test_a_killed_rank_is_restarted_inside_its_pod(training, measure):
    before, pods = training.state("digits-0-1"), uids(training)
    killed = time.time()
    training.run_in("digits-1-1", KILL_RANK)
    after = wait_until_it_trains(training, "digits-0-1", attempt=2)
    record = wait_for_restart(training, attempt=2)
    measure("rank killed: next step after, seconds", after["progress"]["firstStepAt"] - killed, "at most 3")
    measure("rank killed: steps lost", record["stepsLost"], f"at most {jobs.CHECKPOINT_STEPS}")
    assert uids(training) == pods
    assert (record["cause"], record["rank"], record["pod"], record["exitCode"]) == ("Signal", 1, "digits-1-1", 137)
    assert record["stepsLost"] <= jobs.CHECKPOINT_STEPS
    assert after["progress"]["resumedFromStep"] >= before["checkpoint"]["step"]


@pytest.mark.long
@pytest.mark.parametrize("rank", [1, 0])
def test_a_deleted_pod_is_replaced_and_the_others_stay(training, measure, rank):
    pods, lost = uids(training), f"digits-{rank}-1"
    deleted = time.time()
    kubectl("delete", "pod", "-n", training.namespace, lost, "--wait=false")
    leader = "digits-0-2" if rank == 0 else "digits-0-1"
    after = wait_until_it_trains(training, leader, attempt=2)
    record = wait_for_restart(training, attempt=2)
    measure(
        f"pod of rank {rank} deleted: next step after, seconds", after["progress"]["firstStepAt"] - deleted, "at most 8"
    )
    measure(f"pod of rank {rank} deleted: steps lost", record["stepsLost"], f"at most {jobs.CHECKPOINT_STEPS}")
    assert (record["cause"], record["rank"]) == ("PodDeleted", rank)
    assert record["stepsLost"] <= jobs.CHECKPOINT_STEPS
    now = uids(training)
    assert f"digits-{rank}-2" in now
    assert {name: now.get(name) for name in pods if name != lost} == {n: u for n, u in pods.items() if n != lost}


@pytest.fixture
def leader_aside() -> Iterator[None]:
    """The loss of the operator's own node is another test's matter."""
    with keep_workers_off_the_leader():
        yield


@pytest.mark.long
@pytest.mark.parametrize(
    ("how", "what", "goal"),
    [("fail", "node lost", "at most 8"), ("hang", "kubelet hung, its pods run on", "")],
    ids=["node lost", "kubelet hung"],
)
def test_the_pods_of_an_unreachable_node_are_replaced_elsewhere(leader_aside, training, measure, how, what, goal):
    node = training.pods("digits")["digits-0-1"]["spec"]["nodeName"]
    there = [name for name, pod in training.pods("digits").items() if pod["spec"]["nodeName"] == node]
    kubectl("uncordon", node_of_the_leader())
    begun = time.time()
    local_cluster("node", how, node)
    try:
        wait_for("Kubernetes calls the node unreachable", lambda: ready(node) == "Unknown", 60)
        unreachable = time.time()
        after = wait_until_it_trains(training, "digits-0-2", attempt=2)
        record = wait_for_restart(training, attempt=2)
    finally:
        local_cluster("node", "heal", node)
    measure(f"{what}: Kubernetes calls the node unreachable after, seconds", unreachable - begun, "")
    measure(f"{what}: next step after that, seconds", after["progress"]["firstStepAt"] - unreachable, goal)
    measure(f"{what}: steps lost", record["stepsLost"], f"at most {jobs.CHECKPOINT_STEPS}")
    assert (record["cause"], record["node"]) == ("NodeLost", node)
    assert record["stepsLost"] <= jobs.CHECKPOINT_STEPS
    assert not set(there) & set(training.pods("digits"))
    wait_for("the node is back", lambda: ready(node) == "True", 120)
    restarts = training.wait_for_phase("digits", "Running", limit=60)["restarts"]
    assert [one["cause"] for one in restarts] == ["NodeLost"], restarts


STOP_RANK = KILL_RANK.replace("SIGKILL", "SIGSTOP")
HANGS_AFTER = 10


@pytest.mark.long
def test_a_rank_that_is_stopped_is_found_named_and_restarted(kube, measure):
    kube.apply(jobs.endless(failurePolicy={"hangTimeoutSeconds": HANGS_AFTER}))
    wait_until_it_trains(kube, "digits-0-1")
    pods, stopped = uids(kube), time.time()
    kube.run_in("digits-1-1", STOP_RANK)
    after = wait_until_it_trains(kube, "digits-0-1", attempt=2)
    record = wait_for_restart(kube, attempt=2)
    seconds = after["progress"]["firstStepAt"] - stopped
    measure(f"rank hangs, found after {HANGS_AFTER} s: next step after, seconds", seconds, f"at most {HANGS_AFTER + 3}")
    assert (record["cause"], record["rank"], record["pod"]) == ("Hang", 1, "digits-1-1")
    assert record["stepsLost"] <= jobs.CHECKPOINT_STEPS
    assert uids(kube) == pods
    stacks = kube.logs("digits-0-1").partition("[rank 0] Fatal Python error: Aborted")[2]
    # In a step, mostly; in the validation after an epoch, if the other was stopped there.
    where = r'\[rank 0\] +File ".*/muster_worker/train/\w+\.py", line \d+ in '
    assert re.search(where, stacks), "the ranks that waited say where"


def kill_the_operators() -> float:
    """Both at once, without a word."""
    now = time.time()
    kubectl("delete", "pods", "-n", "muster-system", "--all", "--grace-period=0", "--force")
    return now


@pytest.mark.long
def test_the_operators_death_while_a_job_starts_runs_and_restarts_touches_no_pod(kube, measure):
    kube.apply(jobs.endless())
    pods = wait_for("the pods are made", lambda: len(uids(kube)) == 3 and uids(kube), 60)
    kill_the_operators()
    wait_until_it_trains(kube, "digits-0-1")
    kube.wait_for_phase("digits", "Running", limit=120)
    assert uids(kube) == pods

    step = kube.state("digits-0-1")["progress"]["step"]
    killed = kill_the_operators()
    wait_for(
        "the status moves on under the next operator",
        lambda: kube.status("digits")["progress"]["step"] > step + 50,
        120,
    )
    measure("operators killed: status moves on after, seconds", time.time() - killed, "")
    assert uids(kube) == pods
    assert (kube.status("digits")["attempt"], kube.status("digits")["restartCount"]) == (1, 0)

    kubectl("delete", "pod", "-n", kube.namespace, "digits-1-1", "--wait=false")
    kill_the_operators()
    wait_until_it_trains(kube, "digits-0-1", attempt=2)
    assert wait_for_restart(kube, attempt=2)["cause"] == "PodDeleted"
    kept = {name: uid for name, uid in pods.items() if name != "digits-1-1"}
    assert kept.items() <= uids(kube).items()
    assert uids(kube).keys() - kept.keys() == {"digits-1-2"}
    assert kube.status("digits")["restartCount"] == 1


@pytest.mark.long
def test_a_job_that_ends_while_no_operator_lives_has_succeeded_under_the_next(kube):
    kube.apply(jobs.example("digits.yaml"))
    kube.wait_for_phase("digits", "Running", limit=120)
    pods = uids(kube)
    kill_the_operators()
    status = kube.wait_for_phase("digits", "Succeeded", limit=120)
    assert (status["restartCount"], status["progress"]["percent"]) == (0, 100)
    assert uids(kube) == pods


def test_a_recipe_that_is_told_something_wrong_fails_at_once_and_says_what(kube, measure):
    begun = time.time()
    kube.apply(jobs.endless(recipe={"name": "muster_worker.recipes.digits:Digits", "config": {"epoch": 5}}))
    status = kube.wait_for_phase("digits", "Failed", limit=120)
    measure("wrong config: apply to Failed, seconds", time.time() - begun, "")
    assert status["reason"] == "PermanentExitCode"
    assert "spec.recipe.config.epoch: unknown field, wanted one of" in status["message"]
    assert status["restartCount"] == 0
    wait_for("no pod of it runs", lambda: not any(runs(pod) for pod in kube.pods("digits").values()), 60)
