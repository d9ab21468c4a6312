"""A server that Muster knows nothing of serves the model, and is rolled out like any other."""

from __future__ import annotations

import json

import yaml

from tests.cluster import deployments
from tests.cluster.kube import Kube, kubectl, local_cluster

IMAGE = "localhost/muster-custom:test"
WORKER = {
    "name": "worker",
    "image": IMAGE,
    "imagePullPolicy": "Never",
    "ports": [{"name": "http", "containerPort": 8000}],
    "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
}


def test_a_server_of_its_own_serves_the_model(trained: Kube):
    local_cluster("build-image", IMAGE, "tests/cluster/custom", "--base", "python")
    local_cluster("load-image", IMAGE)
    own = deployments.manifest("own", runtime="custom", template={"spec": {"containers": [WORKER]}})
    trained.apply(yaml.safe_dump(own))
    try:
        before = deployments.wait_until_done(trained, "own")
        assert (before["ready"], answer(trained)["name"]) == ("2/2", "own")
        assert answer(trained)["parameters"] > 1000
        deployments.patch(trained, '{"rollout": {"restart": "now"}}', "own")
        after = deployments.wait_until_done(trained, "own")
        assert after["revision"]["current"] != before["revision"]["current"]
        assert answer(trained)["name"] == "own"
        assert "failovers" not in after
    finally:
        kubectl("delete", "modeldeployment", "own", "-n", trained.namespace)


def answer(kube: Kube) -> dict[str, int | str]:
    """By the API server's way to the Service."""
    path = f"/api/v1/namespaces/{kube.namespace}/services/http:own:80/proxy/"
    found: dict[str, int | str] = json.loads(kubectl("get", "--raw", path).stdout)
    return found
