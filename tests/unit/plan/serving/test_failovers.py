"""What is lost is replaced at once, told with its cause, and timed until it answers again."""

from __future__ import annotations

import pytest

from muster.plan.model import WorkerReport
from muster.plan.timestamps import to_timestamp
from tests.unit.plan.fixtures import NOW, node, nodes
from tests.unit.plan.serving.fixtures import answered, decide, deployment, known, leaving, made, name_of, pod, revision

ONE = revision()
AWAY = nodes(node("node-1", ready="Unknown", since=NOW - 1), node("node-2"))


def look(*pods, now=NOW, status=None, **more):
    spec = more.pop("spec", {})
    return decide(deployment(status or known(ONE), **spec), *pods, now=now, revisions=(ONE,), **more)


def test_a_deleted_pod_is_replaced_while_it_leaves():
    answer = look(pod(0, 1, ONE, deleting=True), pod(1, 2, ONE))
    assert (made(answer), leaving(answer)) == ([(0, name_of(ONE))], [])
    (entry,) = answer.status["failovers"]
    assert (entry["group"], entry["cause"], entry["pod"], entry["at"]) == (
        0, "PodDeleted", "digits-serve-0-1", "2027-01-15T08:00:00.000Z",
    )  # fmt: skip
    assert answer.status["phase"] == "Degraded"
    assert [event.reason for event in answer.events] == ["PodDeleted", "Degraded"]


def test_an_evicted_pod_is_told_as_such():
    answer = look(pod(0, 1, ONE, deleting=True, evicted=True), pod(1, 2, ONE))
    assert answer.status["failovers"][0]["cause"] == "Evicted"


def test_it_is_told_once_and_timed_until_another_answers():
    first = look(pod(0, 1, ONE, deleting=True), pod(1, 2, ONE))
    there = (pod(0, 1, ONE, deleting=True), pod(1, 2, ONE))
    later = look(*there, pod(0, 3, ONE, ready=False), status=first.status, now=NOW + 2)
    assert (later.status or first.status)["failovers"] == first.status["failovers"]
    last = look(*there, pod(0, 3, ONE), status=first.status, now=NOW + 4.5)
    assert [entry["replacedSeconds"] for entry in last.status["failovers"]] == ["4.5"]
    assert last.status["phase"] == "Ready"


def test_a_pod_that_vanished_without_a_trace_is_told_once():
    first = look(pod(1, 2, ONE))
    assert made(first) == [(0, name_of(ONE))]
    assert first.status["failovers"][0]["message"].startswith("the pod of group 0 is gone")
    later = look(pod(1, 2, ONE), pod(0, 3, ONE, ready=False), status=first.status)
    assert later.status is None


def test_on_an_unreachable_node_it_is_replaced_and_removed_once_that_is_told():
    there = (pod(0, 1, ONE), pod(1, 2, ONE, node="node-2"))
    first = look(*there, nodes=AWAY)
    assert (made(first), leaving(first)) == ([(0, name_of(ONE))], [])
    assert (first.status["failovers"][0]["cause"], first.status["failovers"][0]["node"]) == ("NodeLost", "node-1")
    later = look(*there, pod(0, 3, ONE, node="node-2", ready=False), status=first.status, nodes=AWAY)
    (delete,) = later.deletes
    assert (delete.name, delete.grace_seconds, delete.resource_version) == ("digits-serve-0-1", 0, "7")


def test_an_unreachable_node_is_given_as_long_as_asked():
    there = (pod(0, 1, ONE), pod(1, 2, ONE, node="node-2"))
    answer = look(*there, nodes=AWAY, spec={"failover": {"nodeLostSeconds": 30}})
    assert (made(answer), leaving(answer), answer.look_again) == ([], [], 29.0)


def test_a_pod_that_its_node_ended_is_replaced_and_its_object_removed():
    there = (pod(0, 1, ONE, phase="Failed"), pod(1, 2, ONE))
    first = look(*there)
    assert (made(first), first.status["failovers"][0]["cause"]) == ([(0, name_of(ONE))], "PodFailed")
    assert leaving(look(*there, pod(0, 3, ONE, ready=False), status=first.status)) == ["digits-serve-0-1"]


def test_a_process_that_died_is_told_and_its_pod_kept():
    died = {"exitCode": 137, "reason": "OOMKilled", "finishedAt": to_timestamp(NOW - 1)}
    first = look(pod(0, 1, ONE, ready=False, restarts=1, died=died), pod(1, 2, ONE))
    assert (made(first), leaving(first)) == ([], [])
    (entry,) = first.status["failovers"]
    assert (entry["cause"], entry["restarted"], entry["exitCode"]) == ("OutOfMemory", True, 137)
    again = look(pod(0, 1, ONE, restarts=1, died=died), pod(1, 2, ONE), status=first.status, now=NOW + 3)
    assert [entry["replacedSeconds"] for entry in again.status["failovers"]] == ["4.0"]


def test_a_process_that_died_inside_of_its_pod_is_told_with_its_own_figures_and_once():
    death = {"count": 1, "exitCode": 139, "diedAt": NOW - 5.25, "seconds": 0.84}
    reports = {"uid-digits-serve-0-1": answered(death=death)}
    pods = (pod(0, 1, ONE), pod(1, 2, ONE))
    first = look(*pods, reports=reports)
    (entry,) = first.status["failovers"]
    assert (entry["cause"], entry["exitCode"], entry["at"]) == ("ProcessDied", 139, "2027-01-15T07:59:54.750Z")
    assert entry["replacedSeconds"] == "0.8"
    again = look(*pods, reports=reports | {"uid-digits-serve-1-2": answered()}, status=first.status, now=NOW + 60)
    assert again.status["failovers"] == [entry]


def test_a_death_that_newer_losses_have_pushed_out_does_not_come_back():
    death = {"count": 1, "exitCode": 139, "diedAt": NOW - 5000, "seconds": 0.84}
    entry = {"group": 0, "cause": "PodDeleted", "at": "2027-01-15T07:00:00.000Z", "replacedSeconds": "1.0"}
    entries = [entry | {"pod": f"x-{n}"} for n in range(10)]
    reports = {"uid-digits-serve-0-1": answered(death=death)}
    answer = look(pod(0, 1, ONE), pod(1, 2, ONE), reports=reports, status=known(ONE, failovers=entries))
    assert answer.status["failovers"] == entries


def test_what_leaves_because_it_is_to_leave_is_no_loss():
    suspended = look(pod(0, 1, ONE, deleting=True), pod(1, 2, ONE, deleting=True), status=known(ONE, madeReplicas=0))
    assert "failovers" not in suspended.status
    new = revision(2, rollout={"restart": "now"})
    asked = deployment(known(ONE, new), rollout={"restart": "now", "maxUnavailable": 1})
    replaced = decide(asked, pod(0, 1, ONE), pod(1, 2, ONE, deleting=True), revisions=(ONE, new))
    assert "failovers" not in replaced.status


def test_only_the_last_ten_are_kept_beside_those_that_are_not_made_good():
    entries = [
        {"group": 0, "cause": "PodDeleted", "pod": f"x-{n}", "at": f"2027-01-15T07:00:{n}.000Z"} for n in range(10, 21)
    ]
    answer = look(pod(0, 1, ONE, deleting=True), pod(1, 2, ONE), status=known(ONE, failovers=entries))
    assert [entry["pod"] for entry in answer.status["failovers"]] == [
        *(f"x-{n}" for n in range(11, 21)),
        "digits-serve-0-1",
    ]


def test_many_groups_that_are_cut_off_together_are_told_once():
    """They are so until their node is given up: what the status forgot of them would be news at every look."""
    pods = [pod(group, group + 1, ONE, node="node-1" if group < 30 else "node-2", gate="True") for group in range(31)]
    silent = WorkerReport({"ready": True, "requestsPerSecond": 1.0, "errorRate": 0.0}, NOW - 10, NOW - 10)
    reports = {one["metadata"]["uid"]: silent for one in pods[:30]} | {pods[30]["metadata"]["uid"]: answered()}
    resource, told = deployment(known(ONE, attempt=31, madeReplicas=31), replicas=31), []
    for number in range(10):
        answer = decide(resource, *pods, revisions=(ONE,), reports=reports, heard_at=NOW, now=NOW + number * 0.01)
        told.append(sum(one.reason == "Unreachable" for one in answer.events))
        resource |= {"status": answer.status or resource["status"]}
    assert told == [30, *[0] * 9]
    assert len({entry["pod"] for entry in resource["status"]["failovers"]}) == 30


@pytest.mark.parametrize("inside", [False, True], ids=["counted by the kubelet", "counted inside of the pod"])
def test_a_group_whose_processes_die_again_and_again_gets_a_new_pod_and_serves_until_then(inside):
    def worn(count):
        died = {"exitCode": 139, "reason": "Error", "finishedAt": to_timestamp(NOW - 1)}
        if not inside:
            return look(pod(0, 1, ONE, restarts=count, died=died), pod(1, 2, ONE))
        death = {"count": count, "exitCode": 139, "diedAt": NOW - 1, "seconds": 0.5}
        return look(pod(0, 1, ONE), pod(1, 2, ONE), reports={"uid-digits-serve-0-1": answered(death=death)})

    assert made(worn(10)) == []
    answer = worn(11)
    assert (made(answer), leaving(answer)) == ([(0, name_of(ONE))], [])
    assert (answer.status["phase"], answer.status["reason"]) == ("Degraded", "TooManyRestarts")
    assert "processes of digits-serve-0-1 have died 11 times" in answer.status["message"]
