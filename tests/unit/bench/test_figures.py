"""What the benchmark makes of metrics and of what it sees."""

from __future__ import annotations

from collections import Counter

import pytest

from muster.client import PODS
from muster.control.kinds import TRAINING_JOBS
from tests.bench.agents import state
from tests.bench.counts import Server, latency, samples
from tests.bench.jobs import WORKERS
from tests.bench.seen import Seen
from tests.bench.systems.muster import MUSTER

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
    meta = {"namespace": "bench-1", "name": f"one-{rank}-{attempt}", "uid": f"{rank}-{attempt}", "labels": labels}
    return {"metadata": meta, "status": {"phase": phase, "podIP": f"10.80.{attempt}.{rank}"}}


def job(phase: str, attempt: int = 1) -> dict:
    meta = {"namespace": "bench-1", "name": "one"}
    return {"metadata": meta, "status": {"phase": phase, "attempt": attempt}}


def test_latencies_are_of_what_was_counted_in_between():
    before = samples(HISTOGRAM.format(fast=0, all=100, sum=90.0))
    after = samples(HISTOGRAM.format(fast=100, all=200, sum=95.0))
    found = latency(before, after, "waited")
    assert (found.mean, found.most) == (pytest.approx(0.05), 0.1)


def test_writes_are_told_from_reads_and_by_resource():
    done = Server(3.0, 2.0, Counter({("POST", "pods"): 4, ("LIST", "pods"): 9, ("APPLY", "services"): 1}))
    before = Server(1.0, 1.5, Counter({("POST", "pods"): 1, ("LIST", "pods"): 2}))
    between = done - before
    assert (between.cpu, between.controllers) == (2.0, 0.5)
    assert between.writes() == 4
    assert between.writes("pods") == 3


def test_the_group_trains_once_every_rank_has_a_running_pod():
    seen = Seen(MUSTER)
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
    seen = Seen(MUSTER)
    seen.take(TRAINING_JOBS, job("Running"))
    seen.take(PODS, pod(0))
    assert await seen.until("it runs", lambda: seen.job_phases["Running"] == 1, limit=1) >= seen.last_event
    seen.replace(PODS, [pod(1)])
    assert [*seen.pods] == [("bench-1", "one-1-1")]
    assert seen.pod_phases["Running"] == 1
    seen.take(TRAINING_JOBS, job("Running"), gone=True)
    assert seen.job_phases["Running"] == 0


@pytest.mark.parametrize("restart", [[job("Running", 2)], [job("Recovering"), job("Running")]])
def test_a_job_was_started_anew_when_its_attempt_grew_or_it_did_not_run_for_a_while(restart):
    seen = Seen(MUSTER)
    seen.take(TRAINING_JOBS, job("Running"))
    before = seen.jobs["bench-1", "one"].starts
    seen.take(TRAINING_JOBS, job("Running"))
    assert seen.jobs["bench-1", "one"].starts == before
    for status in restart:
        seen.take(TRAINING_JOBS, status)
    assert seen.jobs["bench-1", "one"].starts == before + 1


def test_a_pod_that_is_being_deleted_does_not_run():
    seen = Seen(MUSTER)
    going = pod(0)
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    seen.take(PODS, going)
    assert seen.pod_phases == Counter({"Terminating": 1})
