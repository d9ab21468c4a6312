"""Daemons that outlive the command, remembered by process id and start time, never looked up by name."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from local_cluster import commands, interrupts
from local_cluster.checkout import read_json, write_json
from local_cluster.errors import ClusterError

# The daemon puts itself into its cgroups before it becomes the program: however early this command is
# killed, whoever looks into the cgroups finds it.
_ENTER_CGROUPS = 'while [ "$1" != -- ]; do echo 0 > "$1" || exit 70; shift; done; shift; exec "$@"'


@dataclass(frozen=True)
class Daemon:
    """A process that was started. `started` is in clock ticks since the boot, so a reused id is told apart."""

    pid: int
    started: int

    def alive(self) -> bool:
        return _start_time(self.pid) == self.started

    def signal(self, signum: signal.Signals) -> None:
        if not self.alive():
            raise ClusterError(f"process {self.pid} is not running any more")
        os.kill(self.pid, signum)


class Daemons:
    """The daemons of one cluster, written down in a file."""

    def __init__(self, file: Path, logs: Path) -> None:
        self._file = file
        self._logs = logs
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, argv: Sequence[object], entrances: Sequence[Path] = ()) -> Daemon:
        """Starts a program in a session of its own, its output in the log `name`.log."""
        interrupts.check()
        self._logs.mkdir(parents=True, exist_ok=True)
        words = [str(word) for word in argv]
        gate = ["/bin/sh", "-c", _ENTER_CGROUPS, "sh", *(str(path) for path in entrances), "--"]
        with self.log(name).open("ab") as log:
            child = subprocess.Popen(
                [*gate, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={"PATH": commands.SYSTEM_PATH, "HOME": "/root", "LANG": "C.UTF-8"},
                start_new_session=True,
            )
        self._children.append(child)  # else Python warns that it is still running
        daemon = Daemon(child.pid, _start_time(child.pid) or 0)
        write_json(self._file, {**self._read(), name: asdict(daemon)})
        return daemon

    def all(self) -> dict[str, Daemon]:
        return {name: Daemon(**fields) for name, fields in self._read().items()}

    def get(self, name: str) -> Daemon:
        try:
            return self.all()[name]
        except KeyError:
            raise ClusterError(f"there is no process {name} in this cluster") from None

    def dead(self) -> list[str]:
        return [name for name, daemon in self.all().items() if not daemon.alive()]

    def must_live(self) -> None:
        """Raises with the last lines of its log when one of them has ended."""
        for name in self.dead():
            raise ClusterError(f"{name} ended while starting:\n{self.last_words(name)}")

    def log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def last_words(self, name: str, lines: int = 8) -> str:
        with contextlib.suppress(FileNotFoundError):
            return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-lines:])
        return ""

    def _read(self) -> dict[str, dict[str, int]]:
        return read_json(self._file) or {}


def _start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat; None for a process that is gone or only waits to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the program's name may hold spaces and parentheses
    state, started = fields[0], fields[19]
    return None if state == "Z" else int(started)
