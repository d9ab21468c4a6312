"""What Muster adds to the start of a job, against the same Service and pods applied by hand in the same run."""

from __future__ import annotations

import subprocess
import time

import pytest
import yaml

from tests.cluster import jobs
from tests.cluster.kube import ROOT, Kube, kubectl, wait_for

ROUNDS = 2


def first_step_after(kube: Kube, begun: float) -> float:
    def stepped() -> float | None:
        return (kube.state("digits-0-1").get("progress") or {}).get("firstStepAt")

    return wait_for("the first step", stepped, 120) - begun


def with_muster(kube: Kube) -> float:
    begun = time.time()
    kubectl("apply", "-n", kube.namespace, "-f", "-", text=job("muster"))
    seconds = first_step_after(kube, begun)
    kubectl("delete", "trainingjob", "-n", kube.namespace, "digits")
    return seconds


def by_hand(kube: Kube) -> float:
    planned = planned_by_muster(job("hand"))
    begun = time.time()
    kubectl("apply", "-n", kube.namespace, "-f", "-", text=planned)
    seconds = first_step_after(kube, begun)
    kubectl("delete", "-n", kube.namespace, "-f", "-", text=planned)
    return seconds


def job(path: str) -> str:
    """A job in a directory of its own, so that none resumes from another's checkpoint."""
    _, training = yaml.safe_load_all(jobs.endless())
    training["spec"]["storage"]["path"] = f"{path}-{time.time_ns()}"
    return yaml.safe_dump(training)


def planned_by_muster(manifest: str) -> str:
    """What `muster plan` prints, without the owner that does not exist."""
    program = str(ROOT / ".venv" / "bin" / "muster")
    planned = subprocess.run(
        [program, "plan", "-"], input=manifest, capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    objects = list(yaml.safe_load_all(planned))
    for made in objects:
        del made["metadata"]["ownerReferences"], made["metadata"]["namespace"]
    return yaml.safe_dump_all(objects)


@pytest.mark.long
def test_a_job_starts_about_as_fast_as_the_same_pods_applied_by_hand(kube, measure):
    kube.apply(jobs.CLAIM)
    ours, theirs = [], []
    for _ in range(ROUNDS):
        wait_for("no pod is left", lambda: not kube.pods("digits"), 60)
        theirs.append(by_hand(kube))
        wait_for("no pod is left", lambda: not kube.pods("digits"), 60)
        ours.append(with_muster(kube))
    measure("apply to first step by hand, seconds (best)", min(theirs), "")
    measure("apply to first step with Muster, seconds (best)", min(ours), "")
    measure("apply to first step, Muster to by hand", min(ours) / min(theirs), "at most 1.3")
    assert len(ours) == len(theirs) == ROUNDS
