"""A worker whose machine can do too little is replaced by one on another node."""

from __future__ import annotations

import pytest

from tests.unit.plan.fixtures import decide, job, pod, report, started

LEADER = "uid-digits-0-1"

WANTED = {"minMegabytesPerSecond": "100", "maxLatencyMilliseconds": "5", "minGigaflops": "10"}
GOOD = {"flops": 2.5e10, "bandwidth": 1.2e9, "latency": 0.0004}
THREE = pod(0), pod(1), pod(2, node="node-3")


def found(**of_the_last):
    said = [{"pod": one["metadata"]["name"]} | GOOD for one in THREE]
    return {LEADER: report(progress={"step": 5}, preflight=[*said[:2], said[2] | of_the_last])}


def test_what_was_measured_is_told():
    status = decide(started(job()), *THREE, reports=found(latency=0.012)).status
    assert status["preflight"][2] == {
        "pod": THREE[2]["metadata"]["name"],
        "node": "node-3",
        "gigaflops": "25",
        "megabytesPerSecond": "1200",
        "latencyMilliseconds": "12",
    }
    assert (
        decide(started(job(), preflight=status["preflight"]), *THREE, reports={LEADER: report()}).status["preflight"]
        == (status["preflight"])
    ), "it stays"


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        ({"bandwidth": 3e6}, "found 3 MB/s, wanted at least 100 (spec.preflight.minMegabytesPerSecond)"),
        ({"latency": 0.012}, "found 12 ms there and back, wanted at most 5 (spec.preflight.maxLatencyMilliseconds)"),
        ({"flops": 2e9}, "found 2 GFLOP/s, wanted at least 10 (spec.preflight.minGigaflops)"),
    ],
)
def test_a_pod_that_can_do_too_little_gets_a_successor_on_another_node(figure, message):
    answer = decide(started(job(preflight=WANTED)), *THREE, reports=found(**figure))
    (made,) = answer.creates
    assert made["metadata"]["labels"]["muster.dev/rank"] == "2"
    required = made["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = required["nodeSelectorTerms"]
    assert term["matchFields"] == [{"key": "metadata.name", "operator": "NotIn", "values": ["node-3"]}]
    (record,) = answer.status["restarts"]
    assert (record["cause"], record["node"]) == ("PreflightFailed", "node-3")
    assert record["message"].endswith(message)
    assert "on node node-3" in record["message"]


def test_whoever_can_do_enough_stays_and_where_nothing_is_asked_for_everybody_does():
    assert decide(started(job(preflight=WANTED)), *THREE, reports=found()).creates == ()
    assert decide(started(job()), *THREE, reports=found(bandwidth=1.0)).creates == ()


def test_the_node_is_kept_free_of_later_pods_too():
    record = {"attempt": 1, "cause": "PreflightFailed", "node": "node-3", "at": "2026-01-01T00:00:00Z"}
    answer = decide(started(job(preflight=WANTED), attempt=2, restarts=[record]), pod(0), pod(2, attempt=2))
    (made,) = answer.creates
    assert "node-3" in str(made["spec"]["affinity"])


@pytest.mark.parametrize(
    "own",
    [{"nodeAffinity": None}, {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": None}}],
    ids=str,
)
def test_it_is_so_too_where_the_template_has_null(own):
    spec = job(preflight=WANTED, template={"spec": {"affinity": own}})
    (made,) = decide(started(spec), *THREE, reports=found(bandwidth=3e6)).creates
    assert "node-3" in str(made["spec"]["affinity"])


def test_the_budget_of_restarts_ends_it():
    spec = job(preflight=WANTED, failurePolicy={"maxRestarts": 0})
    answer = decide(started(spec), *THREE, reports=found(bandwidth=3e6))
    assert (answer.status["phase"], answer.creates) == ("Failed", ())
    assert "minMegabytesPerSecond" in answer.status["message"]


BAD = {"bandwidth": 3e6}
ONE_SERVER = {"preflight": WANTED, "replicas": 2, "strategy": {"type": "parameterServer"}}


def of_servers(*workers):
    """What its workers have measured, as they come; a server alone has no link."""
    figures = [{"flops": 2.5e10}, *(GOOD | one for one in workers)]
    said = [{"pod": f"digits-{rank}-1"} | one for rank, one in enumerate(figures)]
    return {LEADER: report(progress={"step": 5}, preflight=said)}


@pytest.mark.parametrize(
    ("workers", "replaced"),
    [((BAD, BAD), ["0"]), (({}, BAD), ["2"]), ((BAD, {}), ["1"]), ((BAD,), []), (({}, {}), [])],
    ids=["all", "the last", "the first", "who came first, before the other", "nobody"],
)
def test_where_all_workers_have_a_bad_link_to_the_only_server_it_is_the_servers(workers, replaced):
    answer = decide(started(job(**ONE_SERVER)), *THREE, reports=of_servers(*workers))
    assert [one["metadata"]["labels"]["muster.dev/rank"] for one in answer.creates] == replaced


def test_of_the_server_it_is_told_how_that_is_known():
    answer = decide(started(job(**ONE_SERVER)), *THREE, reports=of_servers(BAD, BAD))
    (record,) = answer.status["restarts"]
    assert (record["cause"], record["pod"], record["node"]) == ("PreflightFailed", "digits-0-1", "node-1")
    assert record["message"] == (
        "digits-0-1 on node node-1: as the only server, from every worker found 3 MB/s, wanted at least 100"
        " (spec.preflight.minMegabytesPerSecond)"
    )


def test_the_only_worker_of_the_only_server_is_taken_for_the_bad_one():
    answer = decide(started(job(**ONE_SERVER | {"replicas": 1})), *THREE[:2], reports=of_servers(BAD))
    assert [one["metadata"]["name"] for one in answer.creates] == ["digits-1-2"]
