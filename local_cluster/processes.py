"""Daemons that outlive the command, remembered by process id and start time, never looked up by name."""

import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from local_cluster import commands, interrupts
from local_cluster.checkout import read_json, write_json
from local_cluster.errors import ClusterError

# The daemon puts itself into its cgroups before it becomes the program: however early this command is
# killed, whoever looks into the cgroups finds it.
_ENTER_CGROUPS = 'cd /; while [ "$1" != -- ]; do echo 0 > "$1" || exit 70; shift; done; shift; exec "$@"'


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

    def start(self, name: str, argv: Sequence[object], entrances: Sequence[Path] = ()) -> Daemon:
        """Starts a program in a session of its own, its output in the log `name`.log."""
        interrupts.check()
        self._logs.mkdir(parents=True, exist_ok=True)
        words = [str(word) for word in argv]
        gate = ["/bin/sh", "-c", _ENTER_CGROUPS, "sh", *(str(path) for path in entrances), "--"]
        pid = os.posix_spawn(
            gate[0],
            [*gate, *words],
            {"PATH": commands.SYSTEM_PATH, "HOME": "/root", "LANG": "C.UTF-8"},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.log(name)), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
        )
        daemon = Daemon(pid, _start_time(pid) or 0)
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
