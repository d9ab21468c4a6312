"""What is lost is replaced, what is healthy is left alone, and enough is enough."""

import pytest

from muster.plan.model import Delete
from tests.unit.plan.fixtures import NOW, beside_a_proxy, decide, job, names, node, nodes, pod, report, started

CUT_OFF = node("node-2", ready="Unknown", since=NOW - 1)


@pytest.mark.parametrize(
    ("lost", "cause"),
    [
        (pod(1, phase="Failed", exit_code=1), "PodFailed"),
        (pod(1, phase="Failed", exit_code=137, reason="OOMKilled"), "OutOfMemory"),
        (pod(1, phase="Failed", exit_code=143, deleting=True), "PodDeleted"),
        (None, "PodDeleted"),
        (pod(1, node="node-2"), "NodeLost"),
        (pod(1, node="node-2", deleting=True), "NodeLost"),
        (pod(1, node="node-2", phase="Pending"), "NodeLost"),
    ],
    ids=[
        "failed", "out of memory", "deleted and ended", "gone", "node lost", "deleted, then node lost",
        "node lost at start",
    ],
)  # fmt: skip
def test_a_lost_worker_gets_a_successor_in_the_next_attempt(lost, cause):
    pods = [pod(0), pod(2), *([lost] if lost else [])]
    plan = decide(started(job()), *pods, nodes=nodes(node("node-1"), CUT_OFF))
    assert names(plan.creates) == ["digits-1-2"]
    assert plan.status["phase"] == "Restarting"
    assert (plan.status["attempt"], plan.status["restartCount"]) == (2, 1)
    assert [(r["attempt"], r["cause"], r["rank"]) for r in plan.status["restarts"]] == [(1, cause, 1)]


def test_a_rank_gets_no_pod_while_its_first_one_is_back_with_its_node_and_has_not_ended():
    gang = pod(0), pod(1, node="node-2"), pod(1, attempt=2, phase="Failed"), pod(2)
    plan = decide(started(job(), attempt=2), *gang)
    assert [(delete.name, delete.grace_seconds) for delete in plan.deletes] == [("digits-1-1", None)]
    assert plan.creates == ()
    then = decide(started(job(), attempt=2), pod(0), pod(1, attempt=2, phase="Failed"), pod(2))
    assert names(then.creates) == ["digits-1-3"]


CUT_OFF_CLUSTER = nodes(node(), CUT_OFF)


def test_a_pod_on_an_unreachable_node_is_removed_by_force_as_it_was_seen_once_its_loss_is_recorded():
    lost = decide(started(job()), pod(0), pod(1, node="node-2"), pod(2), nodes=CUT_OFF_CLUSTER)
    assert lost.deletes == ()
    gang = pod(0), pod(1, node="node-2"), pod(1, attempt=2, phase="Pending"), pod(2)
    plan = decide(job() | {"status": lost.status}, *gang, nodes=CUT_OFF_CLUSTER)
    assert plan.deletes == (Delete("Pod", "digits-1-1", "uid-digits-1-1", grace_seconds=0, resource_version="7"),)
    assert plan.creates == ()


def test_given_a_crash_after_the_successor_was_made_then_the_cause_is_still_told():
    gang = pod(0), pod(1, node="node-2"), pod(1, attempt=2, phase="Pending"), pod(2)
    plan = decide(started(job()), *gang, nodes=CUT_OFF_CLUSTER)
    assert plan.deletes == plan.creates == ()
    assert plan.status["attempt"] == 2
    record = plan.status["restarts"][0]
    assert (record["attempt"], record["cause"], record["node"]) == (1, "NodeLost", "node-2")


def test_a_pod_whose_node_is_back_is_ended_like_any_other_when_it_has_a_successor():
    gang = pod(0), pod(1), pod(1, attempt=2, phase="Pending"), pod(2)
    plan = decide(started(job(), attempt=2), *gang)
    assert [(delete.name, delete.grace_seconds) for delete in plan.deletes] == [("digits-1-1", None)]


def test_a_worker_that_has_failed_is_lost_though_something_else_runs_on_in_its_pod():
    failed = beside_a_proxy(pod(1, phase="Failed", exit_code=137, reason="OOMKilled"))
    plan = decide(started(job()), pod(0), failed, pod(2))
    assert names(plan.creates) == ["digits-1-2"]
    assert plan.status["restarts"][-1]["cause"] == "OutOfMemory"
    later = decide(started(job(), attempt=2), pod(0), failed, pod(1, 2), pod(2))
    assert [delete.name for delete in later.deletes] == ["digits-1-1"]


def test_a_pod_that_is_being_deleted_may_still_run_so_its_successor_waits():
    plan = decide(started(job()), pod(0), pod(1, deleting=True), pod(2))
    assert plan.creates == plan.deletes == ()
    assert plan.status["phase"] == "Restarting"
    assert "digits-1-1" in plan.status["message"]


def test_a_node_that_turned_unreachable_is_given_the_time_that_the_spec_says():
    patient = started(job(failurePolicy={"nodeLostSeconds": 30}))
    plan = decide(patient, pod(0), pod(1, node="node-2"), pod(2), nodes=nodes(node(), CUT_OFF))
    assert plan.creates == plan.deletes == ()
    assert plan.look_again == pytest.approx(29)
    assert plan.status["phase"] == "Restarting"


def test_while_the_scheduler_may_still_choose_an_unreachable_node_its_pods_are_not_replaced():
    not_yet = node("node-2", ready="Unknown", since=NOW - 1, taints=[])
    plan = decide(started(job()), pod(0), pod(1, node="node-2"), pod(2), nodes=nodes(node(), not_yet))
    assert plan.creates == plan.deletes == ()
    assert plan.look_again is None, "the taint will be told"
    assert plan.status["phase"] == "Restarting"


def test_a_node_whose_own_kubelet_says_not_ready_keeps_its_pods():
    unwell = node("node-2", ready="False")
    plan = decide(started(job()), pod(0), pod(1, node="node-2"), pod(2), nodes=nodes(node(), unwell))
    assert plan.creates == plan.deletes == ()


def test_a_node_that_is_not_known_keeps_its_pods():
    plan = decide(started(job()), pod(0), pod(1, node="node-9"), pod(2))
    assert plan.creates == plan.deletes == ()


def test_what_is_lost_together_is_one_restart():
    plan = decide(started(job()), pod(0), pod(1, phase="Failed"), pod(2, phase="Failed"))
    assert names(plan.creates) == ["digits-1-2", "digits-2-2"]
    assert plan.status["restartCount"] == 1
    assert plan.status["restarts"][0]["message"].endswith("lost with it: rank 2")


def test_workers_that_ended_well_are_made_again_when_another_is_lost():
    plan = decide(started(job()), pod(0, phase="Succeeded"), pod(1, phase="Failed"), pod(2, phase="Succeeded"))
    assert names(plan.creates) == ["digits-0-2", "digits-1-2", "digits-2-2"]


def test_a_crash_between_the_new_pod_and_the_status_is_not_another_restart():
    pods = pod(0), pod(1, phase="Failed"), pod(1, attempt=2), pod(2, phase="Failed")
    plan = decide(started(job()), *pods)
    assert names(plan.creates) == ["digits-2-2"]
    assert plan.status["attempt"] == 2


def test_the_successor_of_a_successor_belongs_to_the_next_attempt():
    pods = pod(0), pod(1, phase="Failed"), pod(1, attempt=2, phase="Failed"), pod(2)
    assert names(decide(started(job(), attempt=2), *pods).creates) == ["digits-1-3"]
    assert names(decide(started(job(), attempt=1), *pods).creates) == ["digits-1-3"]


def test_restarts_in_place_count_on():
    seen = report(attempt=4, phase="Restarting")
    plan = decide(started(job()), pod(0), pod(1), pod(2, phase="Failed"), reports={"uid-digits-0-1": seen})
    assert names(plan.creates) == ["digits-2-5"]
    assert plan.status["restartCount"] == 4


def test_a_permanent_exit_code_ends_the_job():
    said = {"error": "ValueError: epochs must be positive"}
    strict = started(job(failurePolicy={"permanentExitCodes": [2]}))
    plan = decide(strict, pod(0), pod(1, phase="Failed", exit_code=2, last_words=said), pod(2))
    assert plan.creates == plan.deletes == ()
    assert (plan.status["phase"], plan.status["reason"]) == ("Failed", "PermanentExitCode")
    assert "exit code 2" in plan.status["message"]
    assert "epochs must be positive" in plan.status["message"]


def test_one_restart_more_than_the_budget_ends_the_job():
    tight = job(failurePolicy={"maxRestarts": 1})
    assert decide(started(tight), pod(0), pod(1, phase="Failed"), pod(2)).status["phase"] == "Restarting"
    plan = decide(started(tight, attempt=2), pod(0), pod(1, attempt=2, phase="Failed"), pod(2))
    assert (plan.status["phase"], plan.status["reason"]) == ("Failed", "RestartBudgetExhausted")
    assert "maxRestarts = 1" in plan.status["message"]


def test_restarts_in_place_spend_the_same_budget():
    said = [{"attempt": 2, "cause": "Signal", "message": "rank 1 was killed by SIGKILL", "at": NOW, "rank": 1}]
    seen = report(attempt=3, restarts=said)
    tight = started(job(failurePolicy={"maxRestarts": 1}))
    plan = decide(tight, pod(0), pod(1), pod(2), reports={"uid-digits-0-1": seen})
    assert plan.status["reason"] == "RestartBudgetExhausted"
    assert "SIGKILL" in plan.status["message"]
