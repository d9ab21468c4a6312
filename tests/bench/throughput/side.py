"""One side of a comparison, from its start until its ranks have timed themselves, from within the worker image."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tests.bench.throughput.clock import TIMES
from tests.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).parents[3]
_ASKED_EVERY = 1.0  # seconds: as often as the operator asks at most
_LIMIT = 600.0
_TO_END = 20.0


def agent(recipe: str, ranks: int, environment: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """What the clocks of the ranks found that a worker pod's agent starts, which is asked as by the operator."""
    (port,) = free_ports(1)
    given = {"MUSTER_PORT": str(port), "MUSTER_PROCESSES": str(ranks), **(environment or {})}
    with _asking(port):
        return _timed(["muster-worker", "agent", "recipe", recipe], ranks, given)


def torchrun(
    program: Path, arguments: Sequence[str], ranks: int, *, timed: int = 0, environment: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """What the clocks of ranks found that torchrun starts; `timed`: how many of them have one (0: all)."""
    (port,) = free_ports(1)
    launcher = [sys.executable, "-m", "tests.bench.throughput.torchrun", f"--nproc-per-node={ranks}"]
    command = [*launcher, f"--master-port={port}", str(program), *arguments]
    return _timed(command, timed or ranks, environment or {})


def _timed(command: Sequence[str], clocks: int, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """What has told how fast it is need not go on to its end."""
    with TemporaryDirectory() as place:
        folder, log = Path(place), Path(place) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env=os.environ | _of_a_pod(folder) | environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                found = _told(process, folder, clocks, log)
            finally:
                _end(process)
        return found


def _told(process: subprocess.Popen[bytes], folder: Path, clocks: int, log: Path) -> list[dict[str, Any]]:
    deadline = time.monotonic() + _LIMIT
    while len(files := sorted(folder.glob("*.json"))) < clocks:
        if process.poll() is not None or time.monotonic() > deadline:
            how = "is still running" if process.returncode is None else f"ended with {process.returncode}"
            sys.exit(f"{' '.join(process.args)} {how}:\n{log.read_text(errors='replace')[-4000:]}")  # type: ignore[arg-type]
        time.sleep(0.05)
    return [json.loads(file.read_text()) for file in files]


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_TO_END)
        os.killpg(process.pid, signal.SIGKILL)  # whom it has left behind


def _of_a_pod(folder: Path) -> dict[str, str]:
    """What a worker pod has; torchrun's ranks have it too, so that they train alike."""
    return {
        "MUSTER_JOB_UID": "throughput",
        "MUSTER_POD": "throughput-0",
        "MUSTER_RANK": "0",
        "MUSTER_REPLICAS": "1",
        "MUSTER_SOURCE": str(ROOT),
        "MUSTER_REPORT": str(folder / "report.jsonl"),
        "MUSTER_STORAGE": str(folder / "storage"),
        TIMES: str(folder),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }


@contextlib.contextmanager
def _asking(port: int) -> Iterator[None]:
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(_ASKED_EVERY):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/state") as answer:
                answer.read()

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        ended.set()
        asking.join()
