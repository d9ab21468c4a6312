"""The two schedulers that know gangs, for as long as a test needs them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from local_cluster import go_builds
from tests.cluster import beside
from tests.cluster.kube import kubeconfig

_GANGS = {"enabled": [{"name": "Coscheduling"}]}
_COSCHEDULING = {
    "apiVersion": "kubescheduler.config.k8s.io/v1",
    "kind": "KubeSchedulerConfiguration",
    "leaderElection": {"leaderElect": False},
    "clientConnection": {"kubeconfig": kubeconfig()},
    "profiles": [
        {
            "schedulerName": "scheduler-plugins-scheduler",
            "plugins": {"multiPoint": _GANGS, "queueSort": _GANGS | {"disabled": [{"name": "*"}]}},
            "pluginConfig": [{"name": "Coscheduling", "args": {"permitWaitingTimeSeconds": 10}}],
        }
    ],
}


# It tries a gang again when a pod or a PodGroup is made or changed, not when a pod goes; a gang that was rejected
# while the first of two pods had gone then waits for the scheduler's sweep, which is every five minutes by default.
_SWEEP = "--pod-max-in-unschedulable-pods-duration=20s"


@contextlib.contextmanager
def coscheduling() -> Iterator[None]:
    place = go_builds.build(go_builds.SCHEDULER_PLUGINS)
    config = beside.write("coscheduling.yaml", _COSCHEDULING)
    port = 10559  # the cluster's own scheduler has 10259
    words = (place / "scheduler", f"--config={config}", f"--secure-port={port}", _SWEEP, "--v=3")
    with beside.definitions(go_builds.SCHEDULER_PLUGINS), beside.program("coscheduling", *words) as process:
        beside.answers("coscheduling", process, f"https://127.0.0.1:{port}/healthz")
        yield


@contextlib.contextmanager
def volcano() -> Iterator[None]:
    place = go_builds.build(go_builds.VOLCANO)
    words = (
        place / "scheduler",
        f"--kubeconfig={kubeconfig()}",
        f"--scheduler-conf={place / 'volcano-scheduler.conf'}",
        "--leader-elect=false",
        "--cache-dumper=false",
        "--enable-healthz",
        "--healthz-address=127.0.0.1:11251",
        "--v=3",
        "--logtostderr",
    )
    with beside.definitions(go_builds.VOLCANO), beside.program("volcano", *words) as process:
        beside.answers("volcano", process, "http://127.0.0.1:11251/healthz")
        yield


RUNNING = {"coscheduling": coscheduling, "volcano": volcano}
