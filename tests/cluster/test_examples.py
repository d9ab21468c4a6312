"""Every example of the README ends as it promises."""

from __future__ import annotations

import json
import re
import time

import pytest

from tests.cluster import deployments, jobs
from tests.cluster.asking import run_in_own_pod
from tests.cluster.kube import ROOT, Kube, kubectl

READ_MODEL = """
import json, pathlib
print(json.dumps({p.name: p.stat().st_size for p in pathlib.Path('/storage/model').iterdir()}))
"""
EXPLAINED = "If the object has a method of that name"
"""Shorter than what the model looks back at."""

WRITE_AND_EXPLAIN = (ROOT / "tests" / "cluster" / "chargpt_client.py").read_text()


@pytest.mark.long
def test_digits_ends_with_a_trained_model(kube, measure):
    begun = time.time()
    kube.apply(jobs.example("digits.yaml"))
    status = kube.wait_for_phase("digits", "Succeeded", limit=300)
    measure("digits: apply to Succeeded, seconds", time.time() - begun, "")
    accuracy = float(status["metrics"]["validationAccuracy"])
    measure("digits: validation accuracy", accuracy, "at least 0.97")
    assert accuracy >= 0.97
    assert status["restartCount"] == 0
    assert status["progress"]["percent"] == 100
    assert re.fullmatch("[0-9a-f]{64}", status["model"]["sha256"])
    assert status["model"]["bytes"] > 0
    assert {c["type"]: c["status"] for c in status["conditions"]} == {
        "Admitted": "True", "Running": "False", "Complete": "True",
    }  # fmt: skip
    columns = kubectl("get", "-n", kube.namespace, "trainingjob", "digits", "--no-headers").stdout
    assert "Succeeded" in columns
    events = kubectl("events", "-n", kube.namespace, "--for", "trainingjob/digits").stdout
    for reason in ("Running", "Succeeded"):
        assert reason in events
    # What another pod finds on the claim, once the job's own pods are done.
    files = run_in_own_pod(kube, "reader", READ_MODEL, storage="digits")
    assert {"model.json", "model.safetensors", "program.pt2"} <= files.keys()
    assert all(size > 0 for size in files.values())


@pytest.mark.long
def test_a_transformer_that_no_worker_has_whole_learns_to_write(kube, measure):
    begun = time.time()
    kube.apply(jobs.example("chargpt.yaml"))
    status = kube.wait_for_phase("chargpt", "Succeeded", limit=300)
    measure("chargpt by fsdp: apply to Succeeded, seconds", time.time() - begun, "")
    accuracy = float(status["metrics"]["validationAccuracy"])
    measure("chargpt by fsdp: next characters guessed", accuracy, "at least 0.35")
    assert accuracy >= 0.35
    assert status["restartCount"] == 0
    kube.apply(jobs.example("serve-chargpt.yaml"))
    deployments.wait_until_done(kube, "chargpt", limit=120)
    answer = json.loads(asked_to_write(kube, "chargpt", "generate"))
    assert (len(answer["text_output"]), answer["details"]["finish_reason"]) == (20, "length")
    assert streamed(kube, "chargpt") == answer["text_output"]
    asked = run_in_own_pod(kube, "client", WRITE_AND_EXPLAIN, "chargpt", "The value of ", EXPLAINED)
    assert (asked["errors"], len(asked["texts"]), asked["finish_reason"]) == ([], 20, "length")
    assert "".join(asked["texts"]) == answer["text_output"], "by gRPC as by HTTP"
    explanation = asked["explanation"]
    assert explanation["target"] == explanation["likeliest"]
    assert len(explanation["attributions"]) == len(EXPLAINED)
    difference, delta = explanation["difference"], explanation["delta"]
    measure("chargpt explained: logit above that of no text", difference, "")
    measure("… of which attributions do not tell", abs(delta), "")
    assert sum(explanation["attributions"]) - delta == pytest.approx(difference, rel=1e-3, abs=1e-3)
    assert abs(delta) < 0.05 * max(1, abs(difference))

    begun = time.time()
    kube.apply(jobs.example("serve-chargpt-group.yaml"))
    deployments.wait_until_done(kube, "chargpt-group", limit=120)
    measure("chargpt by a group of two pods: apply to Ready, seconds", time.time() - begun, "")
    assert streamed(kube, "chargpt-group") == answer["text_output"], "by two pods as by one"

    deployments.patch(kube, '{"group": {"size": 2, "parallelism": {"tensor": null, "pipeline": 2}}}', "chargpt-group")
    deployments.wait_until_done(kube, "chargpt-group", limit=120)
    assert streamed(kube, "chargpt-group") == answer["text_output"], "by two pods with half of the layers each"


def asked_to_write(kube: Kube, name: str, how: str) -> str:
    question = json.dumps({"text_input": "The value of ", "parameters": {"max_tokens": 20, "seed": 1}})
    path = f"/api/v1/namespaces/{kube.namespace}/services/{name}:80/proxy/v2/models/{name}/{how}"
    return kubectl("create", "--raw", path, "-f", "-", text=question).stdout


def streamed(kube: Kube, name: str) -> str:
    """The text of all events together."""
    events = asked_to_write(kube, name, "generate_stream").splitlines()
    return "".join(json.loads(event.removeprefix("data: "))["text_output"] for event in events if event)


def test_a_torchrun_script_from_a_configmap_runs_unchanged(kube, measure):
    script = str(ROOT / "examples" / "script" / "train.py")
    kubectl("create", "configmap", "script", "-n", kube.namespace, f"--from-file={script}")
    begun = time.time()
    kube.apply(jobs.example("script.yaml"))
    status = kube.wait_for_phase("script", "Succeeded", limit=180)
    measure("script: apply to Succeeded, seconds", time.time() - begun, "")
    assert status["progress"]["step"] == status["progress"]["totalSteps"]
    assert float(status["metrics"]["loss"]) > 0


@pytest.mark.long
def test_the_articles_programs_print_what_they_found_on_rank_zero(kube, measure):
    programs = str(ROOT / "examples" / "article")
    kubectl("create", "configmap", "article", "-n", kube.namespace, f"--from-file={programs}")
    begun = time.time()
    kube.apply(jobs.example("article.yaml"))
    kube.wait_for_phase("article", "Succeeded", limit=180)
    measure("article: apply to Succeeded, seconds", time.time() - begun, "")
    assert "[rank 0] step 10 of 10, 3 ranks: [tensor(" in kube.logs("article-0-1")
    for quiet in ("article-1-1", "article-2-1"):
        assert "tensor(" not in kube.logs(quiet)
    kube.apply(jobs.example("article-inference.yaml"))
    kube.wait_for_phase("article-inference", "Succeeded", limit=180)
    assert "[rank 0] 8 samples, 3 ranks: [" in kube.logs("article-inference-0-1")
    assert "samples" not in kube.logs("article-inference-1-1")
