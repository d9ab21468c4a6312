"""Whatever is lost, late, stale or repeated: the same end, and the planner's invariants at every step.

The rules about pods (never two of a rank, none deleted while healthy, none made after the end) are asserted by
the simulated cluster at every write.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from tests.unit.plan.fixtures import job
from tests.unit.plan.simulated import Cluster, OperatorLostError, ended

PERMANENT, FLEETING = 2, 1
SERVED = {
    "failurePolicy": {"maxRestarts": 1000},
    "strategy": {"type": "parameterServer", "parameterServers": 2},
    "storage": {"persistentVolumeClaim": {"claimName": "models"}},
}
KINDS = pytest.mark.parametrize("spec", [{}, SERVED], ids=["workers alone", "with servers"])

reconciling = st.tuples(st.just("reconcile"), st.integers(0, 5), st.none() | st.integers(0, 4))
steps_of_pods = st.one_of(
    reconciling,
    st.tuples(st.just("run_pods")),
    st.tuples(st.just("train")),
    st.tuples(st.just("kill"), st.integers(0, 9), st.just(FLEETING)),
    st.tuples(st.just("delete_as_user"), st.integers(0, 9)),
    st.tuples(st.just("kill_rank")),
    st.tuples(st.just("suspend"), st.booleans()),
)
steps = st.one_of(
    steps_of_pods,
    st.tuples(st.just("cut_off"), st.integers(0, 3)),
    st.tuples(st.just("heal")),
    st.tuples(st.just("scale"), st.integers(2, 5)),
    st.tuples(st.just("agents_notice")),
)

# Nodes stay: from a running group on, a look at a lost node that has come back breaks a rule without Kueue, too.
kueue_steps = st.one_of(
    reconciling,
    *(st.tuples(st.just(name)) for name in ("kueue_acts", "evict")),
    st.tuples(st.just("activate"), st.booleans()),
    steps_of_pods,
)


def play(cluster: Cluster, history) -> None:
    for name, *arguments in history:
        cluster.now += 1
        if name == "reconcile":
            staleness, dies_after = arguments
            try:
                cluster.reconcile(staleness=staleness, dies_after=dies_after)
            except OperatorLostError:
                event("the operator was lost in the middle of a plan")
        else:
            getattr(cluster, name)(*arguments)


def settle(cluster: Cluster, *, suspended: bool = False) -> None:
    """Let everything heal and run, until three rounds change nothing."""
    cluster.heal()
    cluster.suspend(suspended)
    cluster.activate(True)
    quiet = 0
    for _ in range(60):
        before = cluster.writes, cluster.versions
        cluster.now += 30
        cluster.run_pods()
        cluster.kueue_acts()
        cluster.reconcile()
        quiet = quiet + 1 if (cluster.writes, cluster.versions) == before else 0
        if quiet == 3:
            return
    raise AssertionError("the cluster never comes to rest")


@settings(max_examples=1000, deadline=None)
@given(st.lists(steps, max_size=30))
def test_every_history_comes_to_rest_with_a_whole_group_or_a_told_end(history):
    cluster = Cluster(job=job(failurePolicy={"maxRestarts": 1000}))
    play(cluster, history)
    settle(cluster)
    assert cluster.group_trains()
    assert cluster.job["status"]["phase"] == "Running"
    assert cluster.job["status"]["workers"] == "3/3"


@settings(max_examples=1000, deadline=None)
@given(st.lists(steps, max_size=25), st.booleans())
def test_every_history_ends_in_the_same_way(history, fails):
    cluster = Cluster(job=job(failurePolicy={"maxRestarts": 1000, "permanentExitCodes": [PERMANENT]}))
    play(cluster, history)
    settle(cluster)
    if fails:
        cluster.kill(0, PERMANENT)
    else:
        cluster.finish_all()
    settle(cluster)
    assert cluster.job["status"]["phase"] == ("Failed" if fails else "Succeeded")
    assert all(ended(pod) for pod in cluster.pods.values())


@settings(max_examples=400, deadline=None)
@given(st.lists(steps, max_size=25))
def test_from_any_history_a_suspended_job_has_no_pod_and_goes_on_without_a_restart(history):
    cluster = Cluster(job=job(failurePolicy={"maxRestarts": 1000}))
    play(cluster, history)
    settle(cluster, suspended=True)
    status = cluster.job["status"]
    assert cluster.living() == []
    assert (status["phase"], status["replicas"]) == ("Suspended", 0)
    assert cluster.holds("Suspended")
    settle(cluster)
    assert cluster.group_trains()
    assert not cluster.holds("Suspended")
    assert cluster.job["status"]["restartCount"] == status["restartCount"]


@settings(max_examples=600, deadline=None)
@given(st.lists(steps, max_size=30), st.booleans())
def test_every_history_of_parameter_servers_comes_to_rest_with_all_of_them(history, finishes):
    cluster = Cluster(job=job(**SERVED))
    play(cluster, history)
    settle(cluster)
    assert cluster.whole()
    assert (cluster.job["status"]["phase"], cluster.job["status"]["workers"]) == ("Running", "3/3")
    if finishes:
        cluster.finish_all()
        settle(cluster)
        assert cluster.job["status"]["phase"] == "Succeeded"


def elastic_cluster(**spec: Any) -> Cluster:
    spec = {"failurePolicy": {"maxRestarts": 1000}} | spec
    return Cluster(job=job(elastic={"minReplicas": 2, "maxReplicas": 5}, **spec))


@KINDS
@settings(max_examples=1000, deadline=None)
@given(history=st.lists(steps, max_size=30))
@example(history=[("reconcile", 0, None), ("scale", 4), ("reconcile", 0, None), ("scale", 2)])
def test_every_history_of_an_elastic_job_comes_to_rest_with_as_many_workers_as_wanted(spec, history):
    cluster = elastic_cluster(**spec)
    play(cluster, history)
    settle(cluster)
    assert cluster.whole()
    status, replicas = cluster.job["status"], cluster.job["spec"]["replicas"]
    assert status["phase"] == "Running"
    assert (status["workers"], status["wantedReplicas"]) == (f"{replicas}/{replicas}", replicas)
    writes = cluster.writes
    cluster.reconcile()
    assert cluster.writes == writes


@KINDS
@settings(max_examples=400, deadline=None)
@given(history=st.lists(steps, max_size=25), there=st.integers(2, 5), back=st.integers(2, 5))
def test_from_any_history_a_change_of_size_is_no_restart(spec, history, there, back):
    cluster = elastic_cluster(**spec)
    play(cluster, history)
    settle(cluster)
    restarts = cluster.job["status"]["restartCount"]
    for size in (there, back):
        cluster.scale(size)
        settle(cluster)
        assert cluster.whole()
        assert cluster.job["status"]["restartCount"] == restarts


@settings(max_examples=400, deadline=None)
@given(st.lists(steps, max_size=25))
def test_a_converged_cluster_sees_no_write(history):
    cluster = Cluster(job=job(failurePolicy={"maxRestarts": 1000}))
    play(cluster, history)
    settle(cluster)
    writes = cluster.writes
    for _ in range(3):
        cluster.reconcile()
    assert cluster.writes == writes


@settings(max_examples=400, deadline=None)
@given(st.lists(steps, max_size=40), st.integers(0, 4))
def test_a_job_fails_when_its_budget_is_spent_and_not_before(history, budget):
    cluster = Cluster(job=job(failurePolicy={"maxRestarts": budget}))
    play(cluster, history)
    settle(cluster)
    status = cluster.job["status"]
    if status["phase"] == "Failed":
        assert status["reason"] == "RestartBudgetExhausted"
        assert status["restartCount"] >= budget
    else:
        assert status["restartCount"] <= budget


def cluster_with_kueue(*, running: bool) -> Cluster:
    cluster = Cluster(job=job(failurePolicy={"maxRestarts": 1000}, scheduling={"queueName": "research"}))
    if running:  # what is most at stake is far from the beginning of a history
        settle(cluster)
    return cluster


@settings(max_examples=1000, deadline=None)
@given(
    st.booleans(),
    st.lists(kueue_steps, max_size=35),
    st.lists(kueue_steps | st.tuples(st.just("delete_workload")), max_size=10),
)
def test_every_history_of_a_job_in_a_queue_comes_to_rest_with_a_whole_group_that_holds_quota(
    running, history, and_then
):
    cluster = cluster_with_kueue(running=running)
    play(cluster, [*history, *and_then])
    settle(cluster)
    assert cluster.group_trains()
    assert cluster.job["status"]["phase"] == "Running"
    assert not cluster.withheld
    assert cluster.kueue_says("PodsReady")
    writes = cluster.writes
    cluster.reconcile()
    assert cluster.writes == writes


@settings(max_examples=400, deadline=None)
@given(st.booleans(), st.lists(kueue_steps, max_size=25))
def test_from_any_history_an_eviction_is_no_restart(running, history):
    cluster = cluster_with_kueue(running=running)
    play(cluster, history)
    settle(cluster)
    restarts = cluster.job["status"]["restartCount"]
    cluster.evict()
    settle(cluster)
    assert cluster.group_trains()
    assert cluster.job["status"]["restartCount"] == restarts


@settings(max_examples=400, deadline=None)
@given(st.booleans(), st.lists(kueue_steps, max_size=25))
def test_from_any_history_a_suspended_job_stands_in_no_queue_and_one_that_is_over_is_finished(running, history):
    cluster = cluster_with_kueue(running=running)
    play(cluster, history)
    settle(cluster, suspended=True)
    assert (cluster.living(), cluster.workload) == ([], None)
    settle(cluster)
    cluster.finish_all()
    settle(cluster)
    assert cluster.job["status"]["phase"] == "Succeeded"
    assert cluster.kueue_says("Finished")
