"""The container of each runtime: what Muster says of it, and what it leaves to the template."""

from __future__ import annotations

import pytest

from tests.unit.plan.fixtures import NOW
from tests.unit.plan.serving.fixtures import decide, deployment, known, name_of, pod, revision

WORKER = {
    "name": "worker",
    "image": "mine:1",
    "ports": [{"name": "http", "containerPort": 8000}],
    "readinessProbe": {"httpGet": {"path": "/", "port": "http"}},
}
CUSTOM = {"runtime": "custom", "template": {"spec": {"containers": [WORKER]}}}
OWN = revision(**CUSTOM)


def test_torchserve_answers_as_torch_does_by_an_image_and_a_command_of_its_own():
    def made(runtime):
        (made, _) = decide(deployment(runtime=runtime, batching={"maxBatchSize": 8})).creates
        return made["spec"]["containers"][0]

    torch, torchserve = made("torch"), made("torchserve")
    assert (torchserve["image"], torchserve["args"][0]) == ("muster-torchserve:test", "torchserve")
    assert torchserve | {"image": torch["image"], "args": ["serve", *torchserve["args"][1:]]} == torch


@pytest.mark.parametrize(
    ("explain", "words"),
    [
        ({"method": "integratedGradients"}, ["--explain=integratedGradients"]),
        ({"method": "saliency", "baseline": "zeros"}, ["--explain=saliency"]),
        ({"method": "occlusion", "baseline": "-0.5"}, ["--explain=occlusion:-0.5"]),
        (None, []),
    ],
    ids=str,
)
def test_it_is_told_how_to_explain(explain, words):
    (made, _) = decide(deployment(explain=explain)).creates
    assert [word for word in made["spec"]["containers"][0]["args"] if word.startswith("--explain")] == words


@pytest.mark.parametrize(("deadline", "seconds"), [(600, 900), (7200, 7200)])
def test_it_may_fetch_a_model_for_as_long_as_a_rollout_waits(deadline, seconds):
    (made, _) = decide(deployment(rollout={"progressDeadlineSeconds": deadline})).creates
    probe = made["spec"]["containers"][0]["startupProbe"]
    assert (probe["periodSeconds"], probe["failureThreshold"]) == (1, seconds)


def test_to_explain_is_another_revision_whose_groups_replace_those_of_the_one_before():
    plain = revision()
    there = (pod(0, 1, plain), pod(1, 2, plain))
    answer = decide(deployment(known(plain), explain={"method": "saliency"}), *there, revisions=(plain,))
    (new,) = (one for one in answer.creates if one["kind"] == "Pod")
    assert "--explain=saliency" in new["spec"]["containers"][0]["args"]
    assert new["metadata"]["labels"]["muster.dev/revision"] != name_of(plain)


def test_torchserve_is_asked_how_it_is():
    serves = revision(runtime="torchserve")
    there = (pod(0, 1, serves), pod(1, 2, serves))
    answer = decide(deployment(known(serves), runtime="torchserve"), *there, revisions=(serves,))
    assert [one.pod_uid for one in answer.scrape] == ["uid-digits-serve-0-1", "uid-digits-serve-1-2"]


def test_a_custom_server_has_its_own_image_ports_and_probes_and_is_told_where_the_model_is():
    (made, _) = decide(deployment(**CUSTOM)).creates
    (container,) = made["spec"]["containers"]
    assert {name: container[name] for name in WORKER} == WORKER
    assert not {"args", "livenessProbe", "startupProbe"} & container.keys()
    told = {one["name"]: one["value"] for one in container["env"]}
    assert (told["MUSTER_MODEL"], told["MUSTER_MODEL_NAME"]) == ("/muster/model", "digits")
    assert {"name": "storage", "mountPath": "/muster/model", "readOnly": True, "subPath": "digits/model"} in container[
        "volumeMounts"
    ]


def test_a_custom_server_stays_until_everybody_has_heard_that_it_leaves():
    def waits(**rollout):
        (made, _) = decide(deployment(**CUSTOM, rollout=rollout)).creates
        return made["spec"]["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]

    assert (waits(), waits(drainSeconds=2)) == (5, 2)


def test_a_custom_server_is_let_in_and_asked_nothing():
    there = (pod(0, 1, OWN), pod(1, 2, OWN, serving_since=NOW - 60))
    answer = decide(deployment(known(OWN), **CUSTOM), *there, revisions=(OWN,))
    assert (answer.scrape, answer.status["phase"]) == ((), "Ready")
    assert len(answer.parts) == 2, "their gates are opened"


def test_on_the_way_from_one_runtime_to_the_other_those_are_asked_that_answer():
    torch = revision()
    there = (pod(0, 1, torch), pod(1, 2, OWN))
    answer = decide(deployment(known(torch, OWN), **CUSTOM), *there, revisions=(torch, OWN))
    assert [one.pod_uid for one in answer.scrape] == ["uid-digits-serve-0-1"]
