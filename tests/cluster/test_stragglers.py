"""A worker that is slower than the others is named, with its pod, for as long as it is."""

from __future__ import annotations

import time

from tests.cluster import jobs
from tests.cluster.kube import JOB, wait_for
from tests.cluster.nodes import slowed_down

RECIPE = {"name": "muster_worker.recipes.digits:Digits", "config": {"epochs": 5000, "batchSize": 512}}


def test_a_slow_worker_is_named_until_it_is_as_fast_as_the_others(kube, measure):
    kube.apply(jobs.endless(recipe=RECIPE, replicas=3))
    kube.wait_for_phase("digits", "Running", limit=60)
    slow = kube.pods("digits")["digits-2-1"]["metadata"]

    def named():
        return [one["pod"] for one in kube.status("digits").get("stragglers", [])]

    with slowed_down(slow["uid"], 0.15):
        began = time.monotonic()
        wait_for("the slow worker is named", lambda: named() == [slow["name"]], 60)
        measure("slow worker: until it is named, seconds", time.monotonic() - began)
        (found,) = kube.status("digits")["stragglers"]
        measure("slow worker: times as long as the others", float(found["slowdown"]))
    began = time.monotonic()
    wait_for("nobody is named any more", lambda: not named(), 60)
    measure("slow worker: named no more, seconds after", time.monotonic() - began)
    assert kube.get(JOB, "digits")["status"]["attempt"] == 1, "slowness is no failure"
