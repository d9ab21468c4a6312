"""`python3 -m demo`: train by examples/digits.yaml, serve that by examples/serve-explain.yaml, and show both.

Everything happens in a namespace of the demo's own, so that a second run may clear away the first.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from demo import display, serving
from demo.kubectl import get, kubectl

MANIFEST = Path(__file__).parent.parent / "examples" / "digits.yaml"
NAMESPACE = "demo"
LIMIT_SECONDS = 900
POLL_SECONDS = 0.5


def main() -> int:
    started = time.monotonic()
    try:
        name = apply(MANIFEST)
    except KeyboardInterrupt:
        print("\nStopped: make demo begins anew.")
        return 130
    print(f"TrainingJob {name} of {MANIFEST.name} is applied in the namespace {NAMESPACE}.\n")
    try:
        job = follow(name, started)
    except KeyboardInterrupt:
        print(f"\nThe job goes on without us: kubectl -n {NAMESPACE} get trainingjob {name} --watch")
        return 130
    print()
    if job is None:
        print(f"{name} has not ended within {LIMIT_SECONDS} s.")
        print(f"Why it waits: kubectl -n {NAMESPACE} describe trainingjob {name}")
        return 1
    print_end(job, time.monotonic() - started)
    if not display.succeeded(job):
        return 1
    try:
        serving.serve(NAMESPACE)
    except serving.GaveUp as error:
        print(f"\n{error}")
        return 1
    except KeyboardInterrupt:
        print(f"\nThe model is served without us: kubectl -n {NAMESPACE} get modeldeployment digits --watch")
        return 130
    print(NEXT.format(name=name, namespace=NAMESPACE))
    return 0


def apply(manifest: Path) -> str:
    """Apply the manifest afresh and return the name of its TrainingJob."""
    if kubectl("get", "namespace", NAMESPACE, "--ignore-not-found", "-o", "name"):
        both = ("-f", str(serving.MANIFEST), "-f", str(manifest))
        kubectl("-n", NAMESPACE, "delete", *both, "--ignore-not-found", "--wait")
    else:
        kubectl("create", "namespace", NAMESPACE)
    applied = json.loads(kubectl("-n", NAMESPACE, "apply", "-f", str(manifest), "-o", "json"))
    items = applied.get("items", [applied])
    return str(next(item["metadata"]["name"] for item in items if item["kind"] == "TrainingJob"))


def follow(name: str, started: float) -> dict[str, Any] | None:
    """Show the job until it has ended, and return it then; None when it takes too long."""
    screen = Screen()
    shown = 0
    while time.monotonic() < started + LIMIT_SECONDS:
        job = get(NAMESPACE, "trainingjob", name)
        status = job.get("status", {})
        for record in status.get("restarts", []):
            if record["attempt"] > shown:
                screen.note(f"       {display.restart(record)}")
                shown = record["attempt"]
        percent = (status.get("progress") or {}).get("percent") or 0
        screen.show(display.line(job, time.monotonic() - started), status.get("phase", ""), percent)
        if display.ended(job):
            return job
        time.sleep(POLL_SECONDS)
    return None


class Screen:
    """One line that is written again and again on a terminal; anywhere else a line for each tenth of the way."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._phase: str | None = None
        self._tenth: int | None = None

    def show(self, line: str, phase: str, percent: int) -> None:
        new_phase, new_tenth = phase != self._phase, percent // 10 != self._tenth
        if self._live:
            # A line that wraps could not be written over.
            fitting = line[: shutil.get_terminal_size().columns - 1]
            end_of_last = "\n" if new_phase and self._phase is not None else ""
            print(f"{end_of_last}\r\033[K{fitting}", end="", flush=True)
        elif new_phase or new_tenth:
            print(line, flush=True)
        self._phase, self._tenth = phase, percent // 10

    def note(self, line: str) -> None:
        print(f"\n{line}" if self._live else line, flush=True)


def print_end(job: dict[str, Any], seconds: float) -> None:
    name = job["metadata"]["name"]
    if not display.succeeded(job):
        print(f"{name} has failed after {seconds:.0f} s: {display.reason(job)}")
        print(f"What its workers said: kubectl -n {NAMESPACE} logs -l muster.dev/training-job={name} --prefix")
        return
    status = job["status"]
    print(f"{name} has Succeeded in {seconds:.0f} s.")
    if "validationAccuracy" in status.get("metrics", {}):
        print(f"  accuracy  {status['metrics']['validationAccuracy']} on images that it was not trained on")
    if "model" in status:
        print(f"  model     {display.model_place(job)}, {int(status['model']['bytes']):,} bytes")
        folder = on_this_machine(job)
        if folder is not None:
            print(f"            {folder}")


def on_this_machine(job: dict[str, Any]) -> Path | None:
    """Return the model's folder where the cluster keeps volumes on this machine; None where not."""
    storage = job["spec"].get("storage", {})
    claim = storage.get("persistentVolumeClaim", {}).get("claimName")
    if claim is None:
        return None
    volume = kubectl("-n", NAMESPACE, "get", "pvc", claim, "-o", "jsonpath={.spec.volumeName}")
    root = kubectl("get", "pv", volume, "-o", "jsonpath={.spec.hostPath.path}")
    folder = Path(root, storage.get("path", ""), job["status"]["model"]["path"])
    return folder if root and folder.is_dir() else None


NEXT = """
What to try next (`eval $(make env)` puts kubectl and the cluster into this shell):
  kubectl get trainingjobs -A                        all jobs, with their progress
  kubectl -n {namespace} describe trainingjob {name}        what happened to this one, and when
  kubectl -n {namespace} get modeldeployment {name} --watch the replicas, requests a second, latency; and meanwhile:
    kubectl -n {namespace} scale modeldeployment {name} --replicas=3
    kubectl drain NODE --ignore-daemonsets --delete-emptydir-data
  make demo                                          again, and while it trains, in another shell:
    kubectl -n {namespace} delete pod {name}-1-1            lose a worker
    python3 -m local_cluster node fail NODE          lose a node (kubectl get nodes); then: node heal NODE
  kubectl explain trainingjob.spec                   everything that a job can say
  make cluster-down                                  take the cluster away"""


if __name__ == "__main__":
    sys.exit(main())
