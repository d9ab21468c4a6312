"""A job that starts from another's model waits for it, and keeps the one that it found."""

from __future__ import annotations

import json

import pytest

from muster.plan.training import initial_model
from tests.unit.plan.fixtures import decide, job, pod, room, started

WANTS = {"initialModel": {"fromTrainingJob": "teacher"}}
CLAIM = {"persistentVolumeClaim": {"claimName": "models"}, "path": "teachers/first"}
MODEL = {"path": "model", "bytes": 10, "sha256": "abc"}
FOUND = {"fromTrainingJob": "teacher", "claimName": "models", "path": "teachers/first/model", "sha256": "abc"}


def teacher(condition="Complete", phase="Succeeded", model=MODEL, storage=CLAIM):
    conditions = [{"type": condition, "status": "True"}] if condition else []
    status = {"phase": phase, "conditions": conditions} | ({"model": model} if model else {})
    return {
        "metadata": {"name": "teacher", "namespace": "research"},
        "spec": {"storage": storage} if storage else {},
        "status": status,
    }


def named(other):
    return {("TrainingJob", "teacher"): other} if other else {}


@pytest.mark.parametrize(
    ("other", "reason", "sentence"),
    [
        (None, "TrainingJobNotFound", "there is no TrainingJob teacher: create it"),
        (teacher(None, "Running"), "WaitingForModel", "TrainingJob teacher is Running: no model yet"),
        (teacher("Failed", "Failed"), "ModelMissing", "has failed and left no model"),
        (teacher(model=None), "ModelMissing", "has succeeded and left no model"),
        (teacher(storage=None), "ModelMissing", "is on no volume that others reach"),
        (teacher(storage={"ephemeral": {"size": "1Gi"}}), "ModelMissing", "is on no volume that others reach"),
    ],
)
def test_without_the_model_the_job_waits_and_says_for_what(other, reason, sentence):
    plan = decide(job(**WANTS), named=named(other))
    assert (plan.demand, plan.creates) == (None, ())
    assert (plan.status["phase"], plan.status["reason"]) == ("Queued", reason)
    assert sentence in plan.status["message"]
    assert plan.status["message"].startswith("spec.initialModel.fromTrainingJob: ")


@pytest.mark.parametrize("own", ["models", "others", None])
def test_once_it_is_there_the_pods_read_it_and_the_status_remembers_it(own):
    storage = {"storage": {"persistentVolumeClaim": {"claimName": own}}} if own else {}
    plan = decide(job(**WANTS, **storage), named=named(teacher()), capacity=room())
    assert plan.status["initialModel"] == FOUND
    for made in plan.creates:
        container = made["spec"]["containers"][0]
        (mount,) = [one for one in container["volumeMounts"] if one["mountPath"] == "/muster/initial-model"]
        assert (mount["subPath"], mount["readOnly"]) == ("teachers/first/model", True)
        claims = {one["name"]: one.get("persistentVolumeClaim", {}).get("claimName") for one in made["spec"]["volumes"]}
        assert claims[mount["name"]] == "models"
        assert list(claims.values()).count("models") == 1, "the kubelet mounts a claim once a pod"
        values = {one["name"]: one["value"] for one in container["env"] if "value" in one}
        assert values["MUSTER_INITIAL_MODEL"] == mount["mountPath"]
        assert values["MUSTER_INITIAL_MODEL_SHA256"] == "abc"


def test_who_learns_from_it_is_told_how():
    plan = decide(job(**WANTS, distillation={"alpha": "0.5"}), named=named(teacher()), capacity=room())
    values = {one["name"]: one.get("value") for one in plan.creates[0]["spec"]["containers"][0]["env"]}
    assert json.loads(values["MUSTER_DISTILLATION"]) == {"temperature": "2", "alpha": "0.5"}
    assert values["MUSTER_INITIAL_MODEL_SHA256"] == "abc"


@pytest.mark.parametrize("other", [None, teacher(model=MODEL | {"sha256": "another"})], ids=["gone", "trained anew"])
def test_a_successor_starts_from_the_same_model_whatever_became_of_the_other_job(other):
    resource = started(job(**WANTS), initialModel=FOUND)
    plan = decide(resource, pod(0), pod(1, phase="Failed"), pod(2), named=named(other))
    (made,) = plan.creates
    environment = {one["name"]: one.get("value") for one in made["spec"]["containers"][0]["env"]}
    assert environment["MUSTER_INITIAL_MODEL_SHA256"] == "abc"
    assert plan.status["initialModel"] == FOUND


@pytest.mark.parametrize("spec", [None, [], {"initialModel": None}, {"initialModel": {"fromTrainingJob": 3}}, {}])
def test_a_spec_that_is_wrong_names_nobody(spec):
    assert initial_model.named({"spec": spec}) == ()


def test_who_is_named():
    assert initial_model.named(job(**WANTS)) == (("TrainingJob", "teacher"),)
