"""Parameter servers: pods before the workers, whose loss is not that of a worker."""

import pytest

from muster.api import TrainingJob
from muster.plan.training.pods import build_pod
from tests.unit.plan.fixtures import SETTINGS, decide, job, names, node, nodes, pod, report, room, started

SERVED = {
    "replicas": 3,
    "strategy": {"type": "parameterServer", "parameterServers": 2},
    "storage": {"persistentVolumeClaim": {"claimName": "models"}},
    "resources": {"limits": {"nvidia.com/gpu": 1, "cpu": "2"}},
}
LEADER = "uid-digits-0-1"
ALL = tuple(pod(rank) for rank in range(5))


def built(rank, **spec):
    return build_pod(TrainingJob.model_validate(job(**SERVED | spec)), SETTINGS, rank, attempt=1)


def environment(made):
    return {one["name"]: one.get("value") for one in made["spec"]["containers"][0]["env"]}


def trains(attempt=1, **state):
    return {LEADER: report(attempt=attempt, **state)}


def test_servers_and_workers_are_made_together():
    plan = decide(job(**SERVED), capacity=room())
    assert names(plan.creates) == [f"digits-{rank}-1" for rank in range(5)]
    assert plan.status["message"] == "starting 2 parameter servers and 3 workers"
    assert plan.status["replicas"] == 3


def test_a_server_is_told_by_its_label_and_has_no_gpu():
    server, worker = built(1), built(2)
    roles = [made["metadata"]["labels"]["muster.dev/role"] for made in (server, worker)]
    assert roles == ["parameter-server", "worker"]
    limits = [made["spec"]["containers"][0]["resources"]["limits"] for made in (server, worker)]
    assert limits == [{"cpu": "2"}, {"cpu": "2", "nvidia.com/gpu": "1"}]
    ports = [[port["name"] for port in made["spec"]["containers"][0]["ports"]] for made in (server, worker)]
    assert ports == [["agent", "parameters"], ["agent"]]


@pytest.mark.parametrize("rank", [0, 4])
def test_every_pod_knows_where_the_servers_are(rank):
    told = environment(built(rank))
    assert told["MUSTER_PARAMETER_SERVERS"] == "digits-0.digits-workers:7071,digits-1.digits-workers:7071"
    assert (told["MUSTER_REPLICAS"], told["MUSTER_PROCESSES"]) == ("5", "1")


def test_without_a_number_there_is_one_server():
    told = environment(built(0, strategy={"type": "parameterServer"}))
    assert (told["MUSTER_PARAMETER_SERVERS"], told["MUSTER_REPLICAS"]) == ("digits-0.digits-workers:7071", "4")
    assert "MUSTER_PARAMETER_SERVERS" not in environment(built(0, strategy={"type": "ddp"}))


def test_all_of_them_train_and_workers_are_what_is_counted():
    status = decide(started(job(**SERVED), phase="Starting"), *ALL, reports=trains()).status
    assert (status["phase"], status["message"]) == ("Running", "all 2 parameter servers and 3 workers train")
    assert (status["workers"], status["replicas"], status["readyReplicas"]) == ("3/3", 3, 3)


def test_a_lost_worker_gets_a_successor_is_told_and_counts():
    plan = decide(started(job(**SERVED)), *ALL[:4], pod(4, node="gone"), nodes=nodes(node("gone", ready="Unknown")))
    assert names(plan.creates) == ["digits-4-2"]
    assert (plan.status["attempt"], plan.status["restartCount"]) == (2, 1)
    (record,) = plan.status["restarts"]
    assert (record["cause"], record["rank"], record["pod"]) == ("NodeLost", 4, "digits-4-1")
    assert (record["recoverySeconds"], record["stepsLost"]) == ("0.0", 0), "the others go on"


def test_while_a_worker_has_no_successor_yet_the_others_train():
    successor = pod(4, attempt=2, phase="Pending")
    status = decide(started(job(**SERVED), attempt=2), *ALL[:4], successor, reports=trains()).status
    assert (status["phase"], status["workers"]) == ("Running", "2/3")
    assert status["message"] == "2 of 3 workers train; the others join them when they run"


def test_while_a_server_is_missing_nobody_trains():
    successor = pod(1, attempt=2, phase="Pending")
    others = ALL[0], *ALL[2:], successor
    status = decide(started(job(**SERVED), attempt=2), *others, reports=trains(phase="Restarting")).status
    assert (status["phase"], status["message"]) == ("Restarting", "4 of 5 pods run")


def test_the_servers_decide_on_the_end():
    ended = pod(0, phase="Succeeded", last_words={"phase": "Succeeded", "attempt": 1})
    status = decide(started(job(**SERVED)), ended, *ALL[1:4], pod(4, attempt=2, phase="Pending")).status
    assert (status["phase"], status["message"]) == (
        "Succeeded",
        "all 2 parameter servers and 3 workers ended with exit code 0",
    )


def test_the_budget_of_restarts_is_that_of_all():
    spec = SERVED | {"failurePolicy": {"maxRestarts": 1}}
    said = [{"attempt": 2, "cause": "Signal", "rank": 3, "pod": "digits-3-1", "message": "killed", "at": 1}]
    status = decide(started(job(**spec), attempt=2), *ALL, reports=trains(attempt=3, restarts=said)).status
    assert status["reason"] == "RestartBudgetExhausted"
    assert "killed" in status["message"]


# --- where workers are added and taken away ---

ELASTIC = SERVED | {"elastic": {"minReplicas": 1, "maxReplicas": 6}}


def scaled_to(replicas, **status):
    """A job whose pods were made for three workers and that is to have `replicas` now."""
    return started(job(**ELASTIC | {"replicas": replicas}), wantedReplicas=3, **status)


def test_added_workers_join_the_servers_and_that_is_no_restart():
    plan = decide(scaled_to(4), *ALL, reports=trains())
    assert names(plan.creates) == ["digits-5-2"]
    assert plan.deletes == ()
    assert (plan.status["phase"], plan.status["workers"], plan.status["restartCount"]) == ("Running", "3/4", 0)
    assert plan.status["wantedReplicas"] == 4
    assert plan.status["message"] == "3 of 4 workers train; the others join them when they run"


def test_of_workers_and_servers_workers_are_taken_away():
    plan = decide(scaled_to(1), *ALL, reports=trains())
    assert [delete.name for delete in plan.deletes] == ["digits-3-1", "digits-4-1"]
    assert plan.creates == ()
    assert (plan.status["phase"], plan.status["workers"], plan.status["restartCount"]) == ("Running", "1/1", 0)


def test_the_servers_know_how_many_workers_there_can_be():
    told = environment(built(0, **ELASTIC))
    assert (told["MUSTER_REPLICAS"], told["MUSTER_MIN_REPLICAS"]) == ("8", "1")


@pytest.mark.parametrize(("gpus", "phase"), [(1, "Starting"), (0, "Queued")])
def test_they_start_where_there_is_room_for_the_servers_and_the_fewest_workers(gpus, phase):
    spec = ELASTIC | {"backend": "gloo"}
    assert decide(job(**spec), capacity=room(of=(node(gpus=gpus),))).status["phase"] == phase


def test_without_a_server_the_workers_make_up_no_group_of_their_own():
    gone = nodes(node("gone", ready="Unknown"))
    status = decide(scaled_to(3), pod(0, node="gone"), *ALL[1:], nodes=gone, reports=trains()).status
    assert (status["phase"], status["reason"]) == ("Restarting", "NodeLost")
