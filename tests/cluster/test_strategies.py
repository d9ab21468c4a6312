"""Models that no worker has whole: trained to the end, through a death, and from what another strategy has saved."""

from __future__ import annotations

import time

import pytest

from tests.cluster import jobs
from tests.cluster.kube import kubectl, wait_for
from tests.cluster.training import KILL_RANK, wait_for_restart, wait_until_it_trains

CHARGPT = {
    "name": "muster_worker.recipes.chargpt:CharGPT",
    "config": {"characters": 20_000, "layers": 2, "width": 32, "context": 32},
}


def chargpt(epochs: int, replicas: int, strategy: dict[str, object], **spec: object) -> str:
    recipe = CHARGPT | {"config": {**CHARGPT["config"], "epochs": epochs}}  # type: ignore[dict-item]
    checkpoint = {"everySteps": 20, "asynchronous": True}
    return jobs.endless(recipe=recipe, replicas=replicas, strategy=strategy, checkpoint=checkpoint, **spec)


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["fsdp", "pipeline"])
def test_a_divided_training_goes_on_after_a_death_and_publishes_the_whole_model(kube, measure, strategy):
    kube.apply(chargpt(30, 2, {"type": strategy}))
    wait_until_it_trains(kube, "digits-0-1")
    kube.run_in("digits-1-1", KILL_RANK)
    restart = wait_for_restart(kube, 2)
    measure(f"{strategy}: process killed to next step, seconds", float(restart["recoverySeconds"]), "")
    status = kube.wait_for_phase("digits", "Succeeded", limit=240)
    assert (status["restartCount"], status["progress"]["epoch"]) == (1, 30)
    assert float(status["metrics"]["validationLoss"]) < 2.9
    parameters = 96 * 32 + 32 * 32 + 2 * (12 * 32 * 32 + 13 * 32) + 2 * 32 + 33 * 96
    assert status["model"]["bytes"] > 4 * parameters


@pytest.mark.long
def test_tensor_parallel_goes_on_from_what_replicas_have_saved(kube, measure):
    kube.apply(chargpt(400, 3, {"type": "ddp"}))
    saved = wait_until_it_trains(kube, "digits-0-1")["checkpoint"]["step"]
    kubectl("delete", "trainingjob", "digits", "-n", kube.namespace, "--wait=true")
    # A pod of the same name that is still there would hold up the new job, until a second attempt.
    wait_for("its pods are gone", lambda: not kube.pods("digits"), 60)
    begun = time.time()
    kube.apply(chargpt(400, 2, {"type": "tensor"}))
    state = wait_until_it_trains(kube, "digits-0-1")
    measure("ddp of 3 to tensor of 2: apply to next step, seconds", state["progress"]["firstStepAt"] - begun, "")
    assert state["progress"]["resumedFromStep"] >= saved
