"""A model is compressed once, before what serves it is made; or it is said why not."""

from __future__ import annotations

import json

import pytest

from muster.plan.model import Refusal
from tests.unit.plan.fixtures import NOW, node, nodes
from tests.unit.plan.serving.fixtures import decide, deployment, known, leaving, made, pod, revision, said

ONE = revision()
STEPS = [{"clip": {"epsilon": "3"}}, {"quantize": {"bits": 8, "maxAccuracyDrop": "0.01"}}]
SMALL = deployment(compression=STEPS)
SHA = "b" * 64
DONE = {
    "sha256": SHA,
    "bytes": 1000,
    "compression": [
        {"step": STEPS[0], "bytesBefore": 4000, "bytesAfter": 4000, "accuracyBefore": 0.98, "accuracyAfter": 0.98},
        {"step": STEPS[1], "bytesBefore": 4000, "bytesAfter": 1000, "accuracyBefore": 0.98, "accuracyAfter": 0.975},
    ],
}


def compressor(**spec):
    """The pod that is made first for such a deployment, as the API server would send it a moment later."""
    (made,) = decide(deployment(compression=STEPS, **spec)).creates
    metadata = made["metadata"] | {"uid": "uid-compressor", "resourceVersion": "7"}
    return made | {"metadata": metadata, "spec": made["spec"] | {"nodeName": "node-1"}, "status": {"phase": "Pending"}}


def ended(told, phase="Succeeded"):
    message = told if isinstance(told, str) else json.dumps(told)
    container = {"name": "worker", "state": {"terminated": {"exitCode": 0, "message": message}}}
    return compressor() | {"status": {"phase": phase, "containerStatuses": [container]}}


def test_a_pod_of_its_own_writes_the_result_beside_the_model():
    answer = decide(SMALL)
    (one,) = answer.creates
    (container,) = one["spec"]["containers"]
    source, target, *flags = container["args"][1:]
    assert container["args"][0] == "compress"
    assert (source, target.rsplit("/", 1)[0]) == (
        "/muster/storage/digits/model",
        "/muster/storage/digits/model.compressed",
    )
    steps = next(json.loads(one.removeprefix("--steps=")) for one in flags if one.startswith("--steps="))
    assert [next(iter(step)) for step in steps] == ["clip", "quantize"]
    assert {"name": "storage", "persistentVolumeClaim": {"claimName": "models"}} in one["spec"]["volumes"]
    assert "muster.dev/deployment-uid" not in one["metadata"]["labels"], "the Service and the budget leave it out"
    assert (answer.status["phase"], answer.status["reason"]) == ("Compressing", "Compressing")
    assert said(answer) == {"Servable": "False", "UpToDate": "False", "Ready": "Unknown", "Progressing": "True"}


def test_the_same_for_a_model_at_the_root_of_its_volume():
    model = {"persistentVolumeClaim": {"claimName": "models"}, "sha256": SHA}
    (one,) = decide(deployment(compression=STEPS, model=model)).creates
    (container,) = one["spec"]["containers"]
    assert container["args"][1] == "/muster/storage"
    assert container["args"][2].startswith("/muster/storage/compressed/")
    assert f"--sha256={SHA}" in container["args"]


def test_it_computes_on_a_cpu_where_the_template_says_and_ends_though_a_sidecar_would_not():
    template = {
        "spec": {
            "nodeSelector": {"disk": "fast"},
            "containers": [
                {"name": "worker", "image": "mine:1", "readinessProbe": {"httpGet": {"port": 1}}},
                {"name": "logs", "image": "logs:1"},
            ],
        }
    }
    resources = {"limits": {"nvidia.com/gpu": 1, "cpu": "2", "memory": "4Gi"}}
    (one,) = decide(deployment(compression=STEPS, template=template, resources=resources)).creates
    (container,) = one["spec"]["containers"]
    assert one["spec"]["nodeSelector"] == {"disk": "fast"}
    assert (container["image"], container["resources"]) == ("mine:1", {"limits": {"cpu": "2", "memory": "4Gi"}})
    assert "readinessProbe" not in container


def test_nothing_is_made_while_it_works():
    answer = decide(SMALL, compressor())
    assert (answer.creates, leaving(answer)) == ((), [])
    assert answer.status["message"].endswith("compresses the model")


def test_what_it_made_is_served_and_told_of_and_the_pod_stays_until_that_is_kept():
    answer = decide(SMALL, ended(DONE))
    assert {group for group, _ in made(answer)} == {0, 1}
    (container,) = answer.creates[0]["spec"]["containers"]
    mount = next(one for one in container["volumeMounts"] if one["name"] == "storage")
    assert mount["subPath"].startswith("digits/model.compressed/")
    assert f"--sha256={SHA}" in container["args"]
    assert answer.status["model"]["bytes"] == 1000
    clip, quantize = answer.status["model"]["compression"]
    assert (clip["step"], quantize["step"], quantize["accuracyAfter"]) == ("clip", "quantize", "0.975")
    assert leaving(answer) == []
    (kept,) = [one for one in answer.applies if one["kind"] == "ControllerRevision"]
    kept |= {"metadata": kept["metadata"] | {"uid": "uid-kept"}}
    again = decide(SMALL, ended(DONE), revisions=(kept,))
    assert leaving(again) == [ended(DONE)["metadata"]["name"]]
    assert {group for group, _ in made(again)} == {0, 1}


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"error": "spec.compression[1].quantize.maxAccuracyDrop: the accuracy fell"}, "spec.compression[1].quantize"),
        ("", "ended without a word"),
    ],
)
def test_what_costs_too_much_is_not_served(told, message):
    answer = decide(SMALL, ended(told))
    assert (answer.status["phase"], answer.status["reason"]) == ("Failed", "CompressionFailed")
    assert message in answer.status["message"]
    assert said(answer) == {"Servable": "False", "UpToDate": "False", "Ready": "False", "Progressing": "False"}
    assert (made(answer), leaving(answer)) == ([], [])


def test_what_was_served_before_stays_meanwhile_and_where_it_fails():
    of = deployment(known(ONE), compression=STEPS)
    before = [pod(0, 1, ONE), pod(1, 2, ONE)]
    answer = decide(of, *before, revisions=(ONE,))
    assert [one["metadata"]["labels"]["muster.dev/role"] for one in answer.creates] == ["compressor"]
    assert (answer.status["phase"], answer.status["reason"]) == ("RollingOut", "Compressing")
    failed = decide(of, *before, ended({"error": "it fell"}), revisions=(ONE,))
    assert (failed.status["phase"], failed.status["reason"]) == ("RolledBack", "CompressionFailed")
    assert said(failed) == {"Servable": "True", "UpToDate": "False", "Ready": "False", "Progressing": "False"}
    assert (failed.creates, leaving(failed)) == ((), [])


def test_one_that_nobody_asks_for_any_more_leaves():
    name = compressor()["metadata"]["name"]
    assert leaving(decide(deployment(), compressor())) == [name]
    others = decide(deployment(compression=STEPS[:1]), compressor())
    assert leaving(others) == [name]
    assert [one["metadata"]["name"] for one in others.creates] != [name]


def test_one_that_was_lost_gets_a_successor():
    evicted = compressor() | {"status": {"phase": "Failed", "reason": "Evicted"}}
    assert leaving(decide(SMALL, evicted)) == [evicted["metadata"]["name"]]
    lost = decide(SMALL, compressor(), nodes=nodes(node("node-1", ready="Unknown")))
    assert leaving(lost) == [evicted["metadata"]["name"]]


def test_a_storage_that_fails_is_told_while_it_is_tried_again():
    container = {"name": "worker", "lastState": {"terminated": {"exitCode": 1, "message": "so\nerror: it is full\n"}}}
    answer = decide(SMALL, compressor() | {"status": {"phase": "Running", "containerStatuses": [container]}})
    assert answer.status["phase"] == "Compressing"
    assert answer.status["message"].endswith("has failed and tries again: it is full")


def test_nothing_is_begun_while_it_is_suspended_or_refused():
    suspended = decide(deployment(compression=STEPS, suspend=True))
    assert (suspended.creates, suspended.status["reason"]) == ((), "Suspended")
    refused = decide(SMALL, refusal=Refusal("no quota", NOW - 1))
    assert (refused.creates, refused.status["reason"]) == ((), "Refused")
    assert "no quota" in refused.status["message"]
    assert refused.look_again == pytest.approx(1.0)
