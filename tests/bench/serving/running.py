"""A server that runs, on cores of its own, from its first answer until all of its processes are gone."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.serving.models import INPUTS

if TYPE_CHECKING:
    from tests.bench.serving.servers import Server

_STARTS = 120.0  # seconds that it may take until it answers
_ASKED_EVERY = 0.2


class ServerError(Exception):
    """It did not start, or did not answer as the model does; says so, with the end of its log."""


@dataclass(frozen=True)
class Running:
    pid: int

    @property
    def memory(self) -> int:
        """Bytes: the proportional set size of all processes."""
        return sum(_proportional(pid) for pid in self.processes)

    @property
    def processes(self) -> list[int]:
        parents = dict(_parents())
        found = [self.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found


@contextlib.contextmanager
def running(server: Server, place: Path, cores: Sequence[int], root: Path) -> Iterator[Running]:
    """`place`: where it works and logs. Raises ServerError when it does not come to answer."""
    place.mkdir(parents=True, exist_ok=True)
    log = place / "log"
    settings = {
        "PYTHONPATH": f"{root}:{root / 'worker_image'}",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "TMPDIR": str(place),
        "LOG_LOCATION": str(place),
        "METRICS_LOCATION": str(place),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*on_cores(cores), *server.command],
            cwd=place,
            env=os.environ | settings,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    one = Running(process.pid)
    try:
        _wait(server, process, log)
        yield one
    finally:
        for pid in one.processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def on_cores(cores: Sequence[int]) -> list[str]:
    """The beginning of a command that runs on these alone."""
    return ["taskset", "--cpu-list", ",".join(map(str, cores))]


def _wait(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _STARTS
    while (why := _why_not(server)) is not None:
        if process.poll() is not None:
            raise ServerError(f"{server.name} ended with {process.returncode}:\n{tail(log)}")
        if time.monotonic() > end:
            raise ServerError(f"{server.name} does not answer within {_STARTS:.0f} s: {why}\n{tail(log)}")
        time.sleep(_ASKED_EVERY)


def _why_not(server: Server) -> str | None:
    """None once it answers."""
    head, body = server.request([0.0] * INPUTS).split("\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_STARTS)
    with contextlib.closing(connection):
        try:
            connection.request("POST", server.path, body, headers)
            answer = connection.getresponse()
            said = answer.read()
        except (OSError, http.client.HTTPException) as error:
            return str(error)
    return None if answer.status == 200 else f"{answer.status} {said.decode(errors='replace')}"


def tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]


def _parents() -> Iterator[tuple[int, int]]:
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(place.name), int((place / "stat").read_text().rpartition(")")[2].split()[1])


def _proportional(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
