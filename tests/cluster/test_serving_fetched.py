"""A model that is on no volume of the deployment's is fetched: by each of its pods, or once for each node."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest
import yaml

from tests.cluster import deployments
from tests.cluster.kube import Kube, kubectl, wait_for

CACHE = "/var/lib/muster/models"

WEB = """
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
    - name: web
      image: localhost/muster-worker:dev
      imagePullPolicy: Never
      command: [python3, -m, http.server, "8000", --directory, /models]
      readinessProbe: {tcpSocket: {port: 8000}, periodSeconds: 1}
      volumeMounts: [{name: models, mountPath: /models, readOnly: true}]
  volumes: [{name: models, persistentVolumeClaim: {claimName: models, readOnly: true}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 8000}]}
"""


@pytest.fixture
def web(trained: Kube) -> Iterator[str]:
    """Where the model of the training job can be fetched from."""
    trained.apply(WEB)
    kubectl("wait", "-n", trained.namespace, "pod/web", "--for=condition=Ready", "--timeout=60s")
    yield f"http://web.{trained.namespace}.svc:8000/digits/model"
    kubectl("delete", "-n", trained.namespace, "pod/web", "service/web", "--grace-period=0", "--force", check=False)


def test_it_is_served_and_another_one_than_was_meant_is_not(trained: Kube, web: str):
    trained.apply(yaml.safe_dump(deployments.manifest("fetched", model={"uri": web})))
    try:
        status = deployments.wait_until_done(trained, "fetched")
        assert (status["ready"], status["model"]["uri"]) == ("2/2", web)
        good = status["revision"]["current"]
        deployments.patch(trained, json.dumps({"model": {"sha256": "a" * 64}}), "fetched")
        status = deployments.wait_for_phase(trained, "RolledBack", "fetched")
        assert "spec.model.sha256" in status["message"], status["message"]
        wait_for("its pods are gone", lambda: deployments.revisions(trained, "fetched") == {good}, 40)
    finally:
        kubectl("delete", "modeldeployment", "fetched", "-n", trained.namespace)


def _install(cache: str) -> None:
    """Have the release that is there keep models in this directory of each node; empty: not at all."""
    command = ("helm", "upgrade", "muster", "helm/muster", "--namespace", "muster-system", "--reuse-values", "--wait")
    subprocess.run([*command, "--set", f"modelCache.hostPath={cache}"], check=True, capture_output=True)


@pytest.fixture
def kept() -> Iterator[None]:
    """Nodes keep what was fetched."""
    _install(CACHE)
    yield
    _install("")


@pytest.mark.long
@pytest.mark.usefixtures("kept")
def test_a_node_that_keeps_models_fetches_each_once_for_all_pods_and_restarts(trained: Kube, web: str):
    here = {"spec": {"nodeSelector": {"kubernetes.io/hostname": "node-2"}}}
    trained.apply(yaml.safe_dump(deployments.manifest("kept", model={"uri": web}, template=here)))
    try:
        assert deployments.wait_until_done(trained, "kept")["ready"] == "2/2"
        before = deployments.pods(trained, "kept").keys()
        assert (_asked(trained, "model.json"), _asked(trained, "model.safetensors")) == (2, 1)
        deployments.patch(trained, '{"rollout": {"restart": "now"}}', "kept")
        assert deployments.wait_until_done(trained, "kept")["ready"] == "2/2"
        assert not before & deployments.living(trained, "kept").keys()
        assert (_asked(trained, "model.json"), _asked(trained, "model.safetensors")) == (4, 1)
    finally:
        kubectl("delete", "modeldeployment", "kept", "-n", trained.namespace)


def _asked(kube: Kube, file: str) -> int:
    """How often somebody fetched it."""
    return kubectl("logs", "-n", kube.namespace, "web").stdout.count(f"GET /digits/model/{file} ")
