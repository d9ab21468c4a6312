"""What the demo says of a job and a deployment: sentences made of manifest and status, without any I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BAR_WIDTH = 20
SHADES = " ░▒▓█"
AGAINST = "·"
METRICS = {"loss": "loss", "validationAccuracy": "accuracy", "samplesPerSecond": "samples/s"}


def line(job: Mapping[str, Any], elapsed: float) -> str:
    """Return the state of a job in one line: time, phase, workers, and how far it is or why it is not."""
    status = job.get("status", {})
    workers = status.get("workers") or f"0/{job['spec']['replicas']}"
    parts = [clock(elapsed), f"{status.get('phase', 'Pending'):<10}", f"{workers} workers"]
    return "  ".join([*parts, *(_progress(status) or [reason(job)])])


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60:>2}:{int(seconds) % 60:02}"


def reason(job: Mapping[str, Any]) -> str:
    """Return the sentence that says why the job is where it is."""
    return str(job.get("status", {}).get("message") or "the operator has not looked at it yet")


def _progress(status: Mapping[str, Any]) -> list[str]:
    progress = status.get("progress") or {}
    parts = []
    if progress.get("percent") is not None:
        filled = BAR_WIDTH * progress["percent"] // 100
        parts.append(f"{'█' * filled}{'░' * (BAR_WIDTH - filled)} {progress['percent']:>3}%")
    if progress.get("step") is not None:
        parts.append(f"step {progress.get('steps') or progress['step']}")
    metrics = status.get("metrics") or {}
    parts += [f"{label} {metrics[name]}" for name, label in METRICS.items() if name in metrics]
    if progress.get("timeLeft"):
        parts.append(f"{progress['timeLeft']} left")
    return parts


def restart(record: Mapping[str, Any]) -> str:
    """Return one failure that the job survived, as a sentence."""
    who = " ".join(part for part in (record.get("pod"), record.get("node") and f"on {record['node']}") if part)
    what = record.get("message") or record["cause"]
    return f"attempt {record['attempt']} ended: {what}{f' ({who})' if who else ''}; training goes on"


def model_place(job: Mapping[str, Any]) -> str:
    """Return where the trained model is, as a person would say it."""
    storage = job["spec"].get("storage", {})
    path = "/".join(part for part in (storage.get("path"), job["status"]["model"]["path"]) if part)
    claim = storage.get("persistentVolumeClaim", {}).get("claimName")
    return f"{path} in the PersistentVolumeClaim {claim}" if claim else path


def ended(job: Mapping[str, Any]) -> bool:
    return job.get("status", {}).get("phase") in {"Succeeded", "Failed"}


def succeeded(job: Mapping[str, Any]) -> bool:
    return bool(job.get("status", {}).get("phase") == "Succeeded")


def deployment(one: Mapping[str, Any]) -> str:
    """Return the state of a deployment in one line."""
    status = one.get("status", {})
    ready = status.get("ready") or f"0/{one['spec']['replicas']}"
    return f"{status.get('phase', 'Pending'):<10}  {ready} replicas  {reason(one)}"


def is_looked_at(one: Mapping[str, Any]) -> bool:
    """Return whether the status is about the newest spec."""
    return bool(one.get("status", {}).get("observedGeneration") == one["metadata"]["generation"])


def is_served(one: Mapping[str, Any], restart: str) -> bool:
    """Return whether the newest spec is what all replicas serve, restarted as asked."""
    status = one.get("status", {})
    restarted = not restart or "completedAt" in (status.get("restart") or {})
    return bool(is_looked_at(one) and status.get("phase") == "Ready" and restarted)


def answer(request: Mapping[str, Any], response: Mapping[str, Any], explanation: Mapping[str, Any]) -> str:
    """Return an image of 8 x 8 shades, the digit that the model takes it for, and what of the image speaks for that."""
    image, scores = request["inputs"][0]["data"], response["outputs"][0]["data"]
    attributions = explanation["outputs"][0]["data"]
    most = max(map(abs, attributions)) or 1.0
    rows = zip(_drawn(image, 1.0), _drawn(attributions, most), strict=True)
    words = f"    is a {max(range(len(scores)), key=scores.__getitem__)}, for    "
    lines = [shown + (words if number == 3 else " " * len(words)) + why for number, (shown, why) in enumerate(rows)]
    return "\n".join(f"    {line}".rstrip() for line in lines)


def _drawn(numbers: Sequence[float], most: float) -> list[str]:
    """Return 8 rows of shades, the darkest for `most`; what is clearly below zero speaks against it: a dot."""
    shown = [AGAINST if one < -most / 4 else SHADES[round(max(0.0, one) / most * (len(SHADES) - 1))] for one in numbers]
    return ["".join(shade * 2 for shade in shown[row : row + 8]) for row in range(0, 64, 8)]
