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


def test_the_budget_of_restarts_ends_it():
    spec = job(preflight=WANTED, failurePolicy={"maxRestarts": 0})
    answer = decide(started(spec), *THREE, reports=found(bandwidth=3e6))
    assert (answer.status["phase"], answer.creates) == ("Failed", ())
    assert "minMegabytesPerSecond" in answer.status["message"]
