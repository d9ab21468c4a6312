"""A random history finds what may not be."""

from __future__ import annotations

import random

import pytest

from muster.client import PODS
from muster.control.kinds import TRAINING_JOBS
from tests.bench.jobs import WORKERS, metadata
from tests.bench.seen import Seen
from tests.bench.systems.muster import MUSTER
from tests.faults.history import History


def pod(rank, attempt=1, phase="Running", **meta):
    of = metadata(0)
    labels = {"muster.dev/training-job": of["name"], "muster.dev/rank": str(rank), "muster.dev/attempt": str(attempt)}
    name = f"{of['name']}-{rank}-{attempt}"
    return {
        "metadata": {"name": name, "namespace": of["namespace"], "uid": name, "labels": labels} | meta,
        "status": {"phase": phase},
    }


def history(*pods, phase="Running", wanted=None):
    found = History(None, Seen(MUSTER), 1, random.Random(0), {0: False} if wanted is None else wanted)
    if phase is not None:
        found.seen.take(TRAINING_JOBS, {"metadata": metadata(0), "status": {"phase": phase, "attempt": 1}})
    for one in pods:
        found.seen.take(PODS, one)
    return found


WHOLE = [pod(rank) for rank in range(WORKERS)]


@pytest.mark.parametrize(
    "settled",
    [
        history(*WHOLE),
        history(pod(0, phase="Failed"), pod(0, 2), *WHOLE[1:]),
        history(phase="Suspended", wanted={0: True}),
        history(phase=None, wanted={}),
    ],
    ids=["whole", "after a loss", "suspended", "deleted"],
)
def test_what_is_as_wanted(settled):
    assert (settled.unsettled(), settled.broken) == ([], [])


@pytest.mark.parametrize(
    "unsettled",
    [
        history(*WHOLE[1:]),
        history(*WHOLE, phase="Restarting"),
        history(*WHOLE, pod(1, 2, phase="Pending")),
        history(*WHOLE, wanted={0: True}),
        history(pod(0), phase="Suspended", wanted={0: True}),
        history(phase="Running", wanted={}),
        history(pod(0), phase=None, wanted={}),
        history(phase=None),
    ],
    ids=[
        "a pod lacks",
        "says otherwise",
        "one too many",
        "runs",
        "one is left",
        "is there",
        "has a pod",
        "is not there",
    ],
)
def test_what_is_not(unsettled):
    assert len(unsettled.unsettled()) == 1


@pytest.mark.parametrize("phase", ["Pending", "Running"])
def test_a_pod_that_is_made_while_another_of_its_rank_may_still_run(phase):
    assert history(pod(0, phase=phase), pod(0, 2)).broken == [
        "bench-1/train-0-0-2 was made while train-0-0-1 was " + phase
    ]
    leaving = pod(0, phase=phase, deletionTimestamp="2026-11-28T00:00:00Z")
    assert len(history(leaving, pod(0, 2)).broken) == 1
    assert history(pod(0), pod(1), pod(0)).broken == []
