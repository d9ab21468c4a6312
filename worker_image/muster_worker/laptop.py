"""`muster-worker train`: a recipe on this machine, run by the same agent as in a pod."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from muster_worker.agent.agent import TERMINATED, run
from muster_worker.agent.config import AgentConfig, Recipe
from muster_worker.agent.output import Output

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

INTERRUPTED = 130
GRACE_SECONDS = 60.0
_SHOWN = {
    "loss": "loss",
    "validationLoss": "validation loss",
    "validationAccuracy": "accuracy",
    "samplesPerSecond": "samples/s",
}


class BadSettingsError(ValueError):
    """What was given as --config is neither a JSON object nor key=value."""


def train(recipe: str, *, processes: int, settings: Sequence[str], storage: str | None, backend: str | None) -> int:
    """Trains to the end or to Ctrl-C; returns the exit code."""
    try:
        merged = parse_settings(settings)
    except BadSettingsError as error:
        print(f"muster-worker train: {error}", file=sys.stderr)  # noqa: T201 - for the person at the terminal
        return 64
    folder = Path(storage or Path("muster") / recipe.rpartition(":")[2].lower()).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"muster-worker train: --storage is {folder}: {error.strerror}", file=sys.stderr)  # noqa: T201 - as above
        return 64
    sys.path.insert(0, str(Path.cwd()))  # the recipe may be in the file next to the person
    with TemporaryDirectory(prefix="muster-") as scratch:
        config = _config(recipe, processes, folder, Path(scratch))
        os.environ.update(_environment(merged, folder, config.report, backend))
        display = _Display()
        output = Output(before=display.WIPE.encode() if display.terminal else b"")
        code = run(config, hear=display.hear, output=output)
    display.end()
    if code == TERMINATED:
        print(f"Stopped. The checkpoint is in {folder}; the same command goes on from it.")  # noqa: T201
        return INTERRUPTED
    if code == 0 and display.model:
        print(f"Done: the model is in {folder / display.model}")  # noqa: T201
    return code


def parse_settings(words: Sequence[str]) -> dict[str, Any]:
    """Merges JSON objects and key=value words; a value is JSON where it can be read as such, else text."""
    merged: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key.isidentifier():
            merged[key] = _json_or_text(value)
            continue
        try:
            found = json.loads(word)
        except ValueError as error:
            raise BadSettingsError(f"--config is {word!r}: it must be a JSON object or key=value ({error})") from error
        if not isinstance(found, dict):
            raise BadSettingsError(f"--config is {word!r}: it must be a JSON object or key=value")
        merged.update(found)
    return merged


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _config(recipe: str, processes: int, storage: Path, scratch: Path) -> AgentConfig:
    return AgentConfig(
        workload=Recipe(recipe),
        job=f"local-{os.getpid()}",
        pod=socket.gethostname(),
        rank=0,
        replicas=1,
        attempt=1,
        processes=processes,
        coordinator=("127.0.0.1", 0),
        port=0,
        storage=storage,
        report=scratch / "report.jsonl",
        source=None,
        permanent_exit_codes=frozenset(range(1, 75)) | frozenset(range(76, 128)),
        grace_seconds=GRACE_SECONDS,
        termination_log=scratch / "none",
        bind="127.0.0.1",
    )


def _environment(settings: Mapping[str, Any], storage: Path, report: Path, backend: str | None) -> dict[str, str]:
    environment = {
        "MUSTER_STORAGE": str(storage),
        "MUSTER_REPORT": str(report),
        "MUSTER_RECIPE_CONFIG": json.dumps(settings),
        "MUSTER_ATTEMPT": "1",
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo"),
    }
    return {**environment, **({"MUSTER_BACKEND": backend} if backend else {})}


class _Display:
    """On a terminal, a last line that tells how far the training is. What the ranks print goes on above it."""

    EVERY_SECONDS = 0.2
    WIPE = "\r\x1b[K"

    def __init__(self) -> None:
        self.terminal = sys.stdout.isatty()
        self._known: dict[str, Any] = {}
        self._shown_at = 0.0
        self.model: str | None = None

    def hear(self, line: Mapping[str, Any]) -> None:
        self._known.update(line)
        model = line.get("model")
        if isinstance(model, dict):
            self.model = str(model.get("path", "")) or None
        if self.terminal and time.monotonic() - self._shown_at >= self.EVERY_SECONDS:
            self._shown_at = time.monotonic()
            self._write(self._line())

    def end(self) -> None:
        if self.terminal:
            self._write("")

    def _write(self, text: str) -> None:
        sys.stdout.write(self.WIPE + text)
        sys.stdout.flush()

    def _line(self) -> str:
        known = self._known
        words = []
        if "epoch" in known:
            words.append(f"epoch {known['epoch']}")
        if "step" in known:
            words.append(f"step {known['step']}" + (f"/{known['totalSteps']}" if "totalSteps" in known else ""))
        words += [
            f"{name} {known[key]:.4g}" for key, name in _SHOWN.items() if isinstance(known.get(key), (int, float))
        ]
        return " · ".join(words)
