"""What spec.optimisation and bestBy ask for happens, and the status tells of it: together, as they are used."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import yaml

from tests.cluster import deployments, jobs
from tests.cluster.kube import Kube, kubectl, wait_for

EPOCHS, PATIENCE, WARM_UP, RATE = 30, 2, 10, 2.0
UPDATES = 12
"""An epoch's: 1438 images in 23 batches of 64, two for each update."""

METRIC = "validationAccuracy"
LEARNING = {
    "recipe": {
        "name": "muster_worker.recipes.digits:Digits",
        "config": {"epochs": EPOCHS, "batchSize": 64, "precision": "bfloat16"},
    },
    "optimisation": {
        "learningRate": {"initial": str(RATE), "schedule": "cosine", "warmUpSteps": WARM_UP},
        "gradientAccumulation": 2,
        # With such a rate nothing is learned but by gradients that are shortened: one digit of ten is guessed.
        "maxGradientNorm": "0.02",
        "earlyStopping": {"metric": METRIC, "patience": PATIENCE},
    },
    "checkpoint": {"bestBy": METRIC, "keep": 1},
}

PUBLISHED = "import pathlib; print(pathlib.Path('/muster/model/model.json').read_text())"


def rate_of(update: int) -> float:
    """By which the parameters were updated, the first time with 1."""
    if update <= WARM_UP:
        return RATE * update / WARM_UP
    return RATE * 0.5 * (1 + math.cos(math.pi * (update - 1 - WARM_UP) / (EPOCHS * UPDATES - WARM_UP)))


def rates_until_it_succeeds(kube: Kube) -> dict[int, float]:
    """Return the learning rates of all the steps that the job's first worker, or at last its status, was seen at."""
    seen: dict[int, float] = {}

    def note(of: dict[str, Any]) -> None:
        if step := (of.get("progress") or {}).get("step"):
            seen[step] = float(of["metrics"]["learningRate"])

    def succeeded() -> bool:
        status = kube.status("digits")
        note(kube.state("digits-0-1"))
        note(status)
        return status.get("phase") == "Succeeded"

    wait_for("digits is Succeeded", succeeded, limit=180)
    return seen


@pytest.mark.long
def test_training_follows_its_schedule_ends_early_and_its_best_model_is_served(kube, measure):
    kube.apply(jobs.endless(replicas=2, **LEARNING))
    rates = rates_until_it_succeeds(kube)
    measure("learning rates seen on the way", len(rates), "")
    assert len(rates) > 1
    assert rates == {step: pytest.approx(rate_of(step), rel=1e-3) for step in rates}

    status = kube.status("digits")
    epoch, accuracy = status["progress"]["epoch"], float(status["metrics"][METRIC])
    assert epoch < status["progress"]["totalEpochs"] == EPOCHS
    assert status["progress"]["step"] == status["progress"]["totalSteps"] == epoch * UPDATES
    best = (epoch - PATIENCE) * UPDATES
    assert status["model"]["step"] == best
    measure("digits by shortened gradients: validation accuracy", accuracy, "")
    assert accuracy > 0.8
    ending = (
        f"all 2 workers ended with exit code 0; training ended after epoch {epoch} of {EPOCHS}: {METRIC} got no better;"
        f" the model is that of step {best}: the best"
    )
    assert status["message"] == ending
    described = kubectl("describe", "trainingjob", "digits", "-n", kube.namespace).stdout
    assert f"{ending} ({status['reason']})" in described, "as an event"

    kube.apply(yaml.safe_dump(deployments.manifest(replicas=1)))
    served = deployments.wait_until_done(kube)
    assert served["model"]["sha256"] == status["model"]["sha256"]
    (pod,) = deployments.living(kube)
    model = json.loads(kube.run_in(pod, PUBLISHED))
    assert (model["origin"]["step"], model["origin"]["config"]["precision"]) == (best, "bfloat16")
    assert model["metrics"][METRIC] == pytest.approx(accuracy, rel=1e-3)
