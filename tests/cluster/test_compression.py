"""A model that a job has compressed is served, and explains its answers; one that was not is, before it is served."""

from __future__ import annotations

import json
import time

import pytest
import yaml

from tests.cluster import deployments, jobs

STEPS = [{"clip": {"standardDeviations": "4"}}, {"quantize": {"bits": 8, "maxAccuracyDrop": "0.02"}}]

# The images that the model was published with, asked in its pod; each answer beside the one that was published.
ASK = """
import json, pathlib, urllib.request
from muster_worker.train.model_directory import example
(inputs, outputs), url = example(pathlib.Path("/muster/model")), "http://localhost:8080/v2/models/digits"
images = {"name": "images", "datatype": "FP32", "shape": list(inputs["images"].shape),
          "data": inputs["images"].flatten().tolist()}
def ask(word):
    body = json.dumps({"inputs": [images]}).encode()
    answer = json.load(urllib.request.urlopen(f"{url}/{word}", body))
    return {one["name"]: one["data"] for one in answer["outputs"]}
logits = ask("infer")["output"]
off = max(abs(a - b) for a, b in zip(logits, outputs["output"].flatten().tolist()))
"""
ASK_FOR_ANSWERS = ASK + "print(off)"
ASK_FOR_ATTRIBUTIONS = (
    ASK
    + """
explained = ask("explain")
print(json.dumps({
    "off": off,
    "targets": [explained["target"], outputs["output"].argmax(dim=1).tolist()],
    "attributions": len(explained["attributions.images"]) // len(explained["target"]),
}))
"""
)


@pytest.mark.long
def test_a_compressed_model_is_told_of_served_and_explained(kube, measure):
    config = {"epochs": 5, "batchSize": 64}
    recipe = {"name": "muster_worker.recipes.digits:Digits", "config": config}
    kube.apply(jobs.endless(recipe=recipe, replicas=2, compression=STEPS))
    job = kube.wait_for_phase("digits", "Succeeded", limit=180)
    clip, quantize = job["model"]["compression"]
    assert (clip["step"], quantize["step"]) == ("clip", "quantize")
    ratio = quantize["bytesAfter"] / quantize["bytesBefore"]
    drop = float(clip["accuracyBefore"]) - float(quantize["accuracyAfter"])
    measure("digits in 8 bits: bytes of the weights, to those before", ratio, "at most 0.3")
    measure("digits in 8 bits: accuracy lost", drop, "at most 0.005")
    assert ratio <= 0.3

    explaining = {"method": "integratedGradients"}
    for size in (1, 2):
        kube.apply(yaml.safe_dump(deployments.manifest(replicas=1, explain=explaining, group={"size": size})))
        deployments.wait_until_done(kube)
        leader = min(deployments.living(kube))
        found = json.loads(kube.run_in(leader, ASK_FOR_ATTRIBUTIONS))
        assert found["off"] < 1e-4
        assert found["targets"][0] == found["targets"][1]
        assert found["attributions"] == 64


@pytest.mark.long
def test_a_deployment_compresses_its_model_once_and_serves_nothing_that_lost_too_much(kube, measure):
    config = {"epochs": 5, "batchSize": 64}
    recipe = {"name": "muster_worker.recipes.digits:Digits", "config": config}
    kube.apply(jobs.endless(recipe=recipe, replicas=1))
    kube.wait_for_phase("digits", "Succeeded", limit=180)

    began = time.monotonic()
    kube.apply(yaml.safe_dump(deployments.manifest(replicas=2, compression=STEPS)))
    model = deployments.wait_until_done(kube)["model"]
    measure("digits compressed before it is served: apply to 2 groups answer, seconds", time.monotonic() - began)
    clip, quantize = model["compression"]
    assert (clip["step"], quantize["step"]) == ("clip", "quantize")
    measure("… its weights, to those before", quantize["bytesAfter"] / quantize["bytesBefore"], "at most 0.3")
    assert quantize["bytesAfter"] <= 0.3 * quantize["bytesBefore"]
    before = list(deployments.living(kube))
    assert deployments.compressors(kube) == [], "what it came to is kept, and its pod is gone"
    assert float(kube.run_in(before[0], ASK_FOR_ANSWERS)) < 1e-4

    impossible = [{"prune": {"fraction": "0.99", "maxAccuracyDrop": "0.01"}}]
    kube.apply(yaml.safe_dump(deployments.manifest(replicas=2, compression=impossible)))
    status = deployments.wait_for_phase(kube, "RolledBack", reason="CompressionFailed")
    assert status["message"].startswith("spec.compression[0].prune.maxAccuracyDrop: the accuracy fell by ")
    assert list(deployments.living(kube)) == before, "what answered goes on"

    began = time.monotonic()
    kube.apply(yaml.safe_dump(deployments.manifest(replicas=2, compression=STEPS)))
    deployments.wait_until_done(kube)
    measure("… and taken back: apply to done, seconds", time.monotonic() - began)
    assert list(deployments.living(kube)) == before
    assert deployments.compressors(kube) == []

    for ways in ("pipeline", "tensor"):
        half = {"group": {"size": 2, "parallelism": {ways: 2}}, "explain": {"method": "integratedGradients"}}
        kube.apply(yaml.safe_dump(deployments.manifest(replicas=1, compression=STEPS, **half)))
        deployments.wait_until_done(kube)
        found = json.loads(kube.run_in(min(deployments.living(kube)), ASK_FOR_ATTRIBUTIONS))
        assert found["off"] < 1e-4, f"{ways}: each pod has half of the compressed layers"
        assert found["targets"][0] == found["targets"][1]
        assert found["attributions"] == 64
