"""A model that a job has compressed is served, and explains its answers."""

from __future__ import annotations

import json

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
logits, explained = ask("infer")["output"], ask("explain")
print(json.dumps({
    "off": max(abs(a - b) for a, b in zip(logits, outputs["output"].flatten().tolist())),
    "targets": [explained["target"], outputs["output"].argmax(dim=1).tolist()],
    "attributions": len(explained["attributions.images"]) // len(explained["target"]),
}))
"""


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
    kube.apply(yaml.safe_dump(deployments.manifest(replicas=1, explain=explaining)))
    deployments.wait_until_done(kube)
    (name,) = deployments.living(kube)
    found = json.loads(kube.run_in(name, ASK))
    assert found["off"] < 1e-4
    assert found["targets"][0] == found["targets"][1]
    assert found["attributions"] == 64
