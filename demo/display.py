"""What the demo says of a TrainingJob: sentences made of its manifest and status, without any I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

BAR_WIDTH = 20
METRICS = {"loss": "loss", "validationAccuracy": "accuracy", "samplesPerSecond": "samples/s"}


def line(job: Mapping[str, Any], elapsed: float) -> str:
    """Return the state of a job in one line: time, phase, workers, and what is known of its progress."""
    status = job.get("status", {})
    workers = f"{status.get('readyReplicas', 0)}/{job['spec']['replicas']} workers"
    parts = [clock(elapsed), f"{status.get('phase', 'Pending'):<10}", workers]
    return (
        "  ".join([*parts, *_progress(status)]) if "progress" in status else "  ".join([*parts, reason(job)])
    )


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60:>2}:{int(seconds) % 60:02}"


def reason(job: Mapping[str, Any]) -> str:
    """Return the sentence of the condition that changed last: why the job is where it is."""
    conditions = job.get("status", {}).get("conditions", [])
    latest = max(conditions, key=lambda condition: condition["lastTransitionTime"], default=None)
    return str(latest["message"]) if latest else "the operator has not seen it yet"


def _progress(status: Mapping[str, Any]) -> list[str]:
    progress = status["progress"]
    parts = []
    if "percent" in progress:
        filled = BAR_WIDTH * progress["percent"] // 100
        parts.append(f"{'█' * filled}{'░' * (BAR_WIDTH - filled)} {progress['percent']:>3}%")
    if "step" in progress:
        parts.append(
            f"step {progress['step']}" + (f"/{progress['totalSteps']}" if "totalSteps" in progress else "")
        )
    metrics = status.get("metrics", {})
    parts += [f"{label} {metrics[name]}" for name, label in METRICS.items() if name in metrics]
    if "secondsLeft" in progress:
        parts.append(f"{clock(progress['secondsLeft']).strip()} left")
    return parts


def restart(record: Mapping[str, Any]) -> str:
    """Return one failure that the job survived, as a sentence."""
    where = f" on {record['node']}" if record.get("node") else ""
    code = f", exit code {record['exitCode']}" if record.get("exitCode") is not None else ""
    pod = record.get("pod", "a worker")
    return f"attempt {record['attempt']} ended: {record['cause']} of {pod}{where}{code}; training goes on"


def model_place(job: Mapping[str, Any]) -> str:
    """Return where the trained model is, as a person would say it."""
    storage = job["spec"].get("storage", {})
    path = "/".join(part for part in (storage.get("path", ""), job["status"]["model"]["path"]) if part)
    claim = storage.get("persistentVolumeClaim", {}).get("claimName")
    return f"{path} in the PersistentVolumeClaim {claim}" if claim else path


def ended(job: Mapping[str, Any]) -> bool:
    return job.get("status", {}).get("phase") in {"Succeeded", "Failed"}


def succeeded(job: Mapping[str, Any]) -> bool:
    return bool(job.get("status", {}).get("phase") == "Succeeded")
