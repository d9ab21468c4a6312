"""What the benchmark makes of metrics and of what it sees."""

from __future__ import annotations

from collections import Counter

import pytest

from muster.client import PODS
from muster.control.kinds import TRAINING_JOBS
from tests.bench.agents import state
from tests.bench.counts import Server, latency, samples
from tests.bench.jobs import WORKERS
from tests.bench.report import Row
from tests.bench.seen import Seen

HISTOGRAM = """
# TYPE waited histogram
waited_bucket{{le="0.1"}} {fast}
waited_bucket{{le="1.0"}} {all}
waited_bucket{{le="+Inf"}} {all}
waited_sum {sum}
waited_count {all}
"""


def pod(rank: int, attempt: int = 1, phase: str = "Running") -> dict:
    labels = {"muster.dev/training-job": "one", "muster.dev/rank": str(rank), "muster.dev/attempt": str(attempt)}
    meta = {"namespace": "bench-1", "name": f"one-{rank}-{attempt}", "labels": labels}
    return {"metadata": meta, "status": {"phase": phase, "podIP": f"10.80.{attempt}.{rank}"}}


def test_latencies_are_of_what_was_counted_in_between():
    before = samples(HISTOGRAM.format(fast=0, all=100, sum=90.0))
    after = samples(HISTOGRAM.format(fast=100, all=200, sum=95.0))
    found = latency(before, after, "waited")
    assert (found.mean, found.most) == (pytest.approx(0.05), 0.1)


def test_writes_are_told_from_reads_and_by_resource():
    done = Server(3.0, Counter({("POST", "pods"): 4, ("LIST", "pods"): 9, ("APPLY", "services"): 1}))
    before = Server(1.0, Counter({("POST", "pods"): 1, ("LIST", "pods"): 2}))
    assert (done - before).writes() == 4
    assert (done - before).writes("pods") == 3


def test_a_goal_is_met_up_to_and_with_it():
    assert Row("figure", None, 4, "", "≤ 4", 4).cells[-1] == "met"
    assert Row("figure", 2, 4.1, "", "≤ 4", 4).cells[3:] == ("2.05", "≤ 4", "**missed**")


def test_the_group_trains_once_every_rank_has_a_running_pod():
    seen = Seen()
    for rank in range(WORKERS - 1):
        seen.take(PODS, pod(rank))
    leader = seen.pods["bench-1", "one-0-1"]
    assert state(leader, seen)["phase"] == "Waiting"
    seen.take(PODS, pod(WORKERS - 1))
    assert (state(leader, seen)["phase"], state(leader, seen)["attempt"]) == ("Running", 1)
    seen.take(PODS, pod(1, phase="Failed"))
    seen.take(PODS, pod(1, attempt=2, phase="Pending"))
    assert (state(leader, seen)["phase"], state(leader, seen)["attempt"]) == ("Waiting", 1)
    seen.take(PODS, pod(1, attempt=2))
    assert (state(leader, seen)["phase"], state(leader, seen)["attempt"]) == ("Running", 2)


async def test_a_moment_is_that_of_the_event_that_made_it_true_and_a_list_replaces_what_was_known():
    seen = Seen()
    job = {"metadata": {"namespace": "bench-1", "name": "one"}, "status": {"phase": "Running", "attempt": 1}}
    seen.take(TRAINING_JOBS, job)
    seen.take(PODS, pod(0))
    assert await seen.until("it runs", lambda: seen.job_phases["Running"] == 1, limit=1) >= seen.last_event
    seen.replace(PODS, [pod(1)])
    assert [*seen.pods] == [("bench-1", "one-1-1")]
    assert seen.pod_phases["Running"] == 1
    seen.take(TRAINING_JOBS, job, gone=True)
    assert seen.job_phases["Running"] == 0
