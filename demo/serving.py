"""The demo's second half: the trained model is served, asked, and restarted under load."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from demo import display
from demo.kubectl import get, kubectl

MANIFEST = Path(__file__).parent.parent / "examples" / "serve-explain.yaml"
CLIENT, PROGRAM = "client", Path(__file__).with_name("client.py")
IMAGE_FILE = Path(__file__).parent.parent / "build" / "demo-image.json"
LIMIT_SECONDS, CLIENT_LIMIT_SECONDS = 300, 60
POLL_SECONDS = 0.5
PORT = 18_080
WARM_UP = 100
"""Answers before the restart begins."""


class GaveUp(Exception):  # noqa: N818
    """Something did not come about in time."""


def serve(namespace: str) -> None:
    """Raises GaveUp where the model is not served in time."""
    kubectl("-n", namespace, "apply", "-f", str(MANIFEST))
    print(f"\nModelDeployment digits of {MANIFEST.name} is applied: two replicas will serve that model.\n")
    deployment = _until_ready(namespace)
    print(f"\nIt answers at {deployment['status']['url']}.")
    with _client(namespace, deployment):
        _ask_by_curl(namespace)
        _restart_under_load(namespace)


def _until_ready(namespace: str, restart: str = "") -> dict[str, Any]:
    """Print each new state, until the newest spec is what all replicas serve."""
    started, shown = time.monotonic(), ""
    while time.monotonic() < started + LIMIT_SECONDS:
        deployment = get(namespace, "modeldeployment", "digits")
        line = display.deployment(deployment)
        if line != shown and display.is_looked_at(deployment):
            print(f"{display.clock(time.monotonic() - started)}  {line}", flush=True)
            shown = line
        if display.is_served(deployment, restart):
            return deployment
        time.sleep(POLL_SECONDS)
    raise GaveUp(f"digits is not ready after {LIMIT_SECONDS} s: kubectl -n {namespace} describe modeldeployment digits")


@contextlib.contextmanager
def _client(namespace: str, deployment: dict[str, Any]) -> Iterator[None]:
    """Have a pod in the cluster ask the model all the time."""
    pods = ("-n", namespace, "get", "pods", "-l", deployment["status"]["selector"])
    image = kubectl(*pods, "-o", "jsonpath={.items[0].spec.containers[0].image}")
    command = ("--command", "--", "python3", "-c", PROGRAM.read_text(), deployment["status"]["url"])
    _remove_client(namespace)
    kubectl("-n", namespace, "run", CLIENT, f"--image={image}", "--image-pull-policy=IfNotPresent", *command)
    try:
        yield
    finally:
        _remove_client(namespace)


def _remove_client(namespace: str) -> None:
    kubectl("-n", namespace, "delete", "pod", CLIENT, "--ignore-not-found", "--grace-period=0", "--force")


def _said(namespace: str) -> list[dict[str, Any]]:
    """Everything that the client has printed."""
    log = subprocess.run(["kubectl", "-n", namespace, "logs", CLIENT], check=False, capture_output=True, text=True)
    return [json.loads(line) for line in log.stdout.splitlines() if line.startswith("{") and line.endswith("}")]


def _counts(namespace: str, at_least: int) -> dict[str, int]:
    started = time.monotonic()
    while time.monotonic() < started + CLIENT_LIMIT_SECONDS:
        said = _said(namespace)[1:]
        if said and said[-1]["answered"] >= at_least:
            return said[-1]
        time.sleep(POLL_SECONDS)
    raise GaveUp(f"the model has not answered {at_least} requests: kubectl -n {namespace} logs {CLIENT}")


def _ask_by_curl(namespace: str) -> None:
    """Ask for the digits on three images, and why it is those, from here through a forwarded port."""
    _counts(namespace, WARM_UP)
    forward = ("kubectl", "-n", namespace, "port-forward", "service/digits", f"{PORT}:80")
    infer, explain = (
        ("curl", f"http://localhost:{PORT}/v2/models/digits/{word}", "--data") for word in ("infer", "explain")
    )
    print(f"\n  $ {' '.join(forward)} &\n  $ {' '.join(infer)} @image.json\n  $ {' '.join(explain)} @image.json\n")
    with subprocess.Popen(forward, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as forwarding:
        assert forwarding.stdout is not None, "asked for"
        assert forwarding.stderr is not None, "asked for"
        try:
            if not forwarding.stdout.readline():  # says that it listens
                raise GaveUp(f"port {PORT} of this machine leads to no model: {forwarding.stderr.read().strip()}")
            for one in _said(namespace)[0]["images"]:
                IMAGE_FILE.parent.mkdir(exist_ok=True)
                IMAGE_FILE.write_text(json.dumps(one["request"]))
                print(display.answer(one["request"], _answer(infer), _answer(explain)), end="\n\n")
        finally:
            forwarding.terminate()


def _answer(ask: Sequence[str]) -> Any:
    here = (*ask, f"@{IMAGE_FILE}", "--silent", "--noproxy", "*")
    return json.loads(subprocess.run(here, check=True, capture_output=True, text=True).stdout)


def _restart_under_load(namespace: str) -> None:
    before = _counts(namespace, WARM_UP)
    restart = time.strftime("%Y-%m-%dT%H:%M:%S")
    patch = json.dumps({"spec": {"rollout": {"restart": restart}}})
    words = ("-n", namespace, "patch", "modeldeployment", "digits", "--type=merge", "--patch")
    print("Now all replicas are restarted in a rolling way, while a pod asks 40 times a second:\n")
    print(f"  $ kubectl {' '.join(words)} '{patch}'\n")
    kubectl(*words, patch)
    deployment = _until_ready(namespace, restart)
    after = _counts(namespace, before["answered"] + WARM_UP)
    failed, answered = after["failed"] - before["failed"], after["answered"] - before["answered"]
    seconds = deployment["status"]["rollout"]["seconds"]
    print(f"\nRestarted in {seconds} s: {answered + failed} requests meanwhile, {failed} failed.")
