"""Runs other programs so that none outlives the command that wanted it."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from local_cluster import interrupts
from local_cluster.errors import ClusterError, CommandFailedError

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run(
    *argv: object,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    check: bool = True,
) -> str:
    """Runs a program to its end and returns what it printed, both streams.

    The program dies with this process, whatever way this process dies. `env` is added to the environment.
    """
    words = [str(word) for word in argv]
    with tempfile.TemporaryFile() as sink:
        child = _start(words, stdin=stdin, env=env, cwd=cwd, sink=sink.fileno())
        _wait(child)
        sink.seek(0)
        output = sink.read().decode(errors="replace")
    if check and child.returncode != 0:
        raise CommandFailedError(words, child.returncode, output)
    return output


def run_in_foreground(argv: Sequence[object], *, env: Mapping[str, str] | None = None) -> int:
    """Runs a program with this process's own output streams and returns its exit status."""
    child = _start([str(word) for word in argv], stdin=None, env=env, cwd=None, sink=None)
    _wait(child)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _start(
    words: list[str],
    *,
    stdin: str | None,
    env: Mapping[str, str] | None,
    cwd: Path | None,
    sink: int | None,
) -> subprocess.Popen[bytes]:
    try:
        child = subprocess.Popen(
            _tied_to_us(words),
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env={**os.environ, "PATH": search_path(), **(env or {})},
            cwd=cwd,
            # A group of its own: Ctrl-C reaches this process alone, which then ends the whole group.
            process_group=0,
        )
    except FileNotFoundError as error:
        raise ClusterError(f"the program {error.filename} is missing") from error
    if child.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write((stdin or "").encode())
            child.stdin.close()
    return child


def _tied_to_us(words: list[str]) -> list[str]:
    if shutil.which("setpriv", path=search_path()):
        return ["setpriv", "--pdeathsig", "KILL", "--", *words]
    return words


def _wait(child: subprocess.Popen[bytes]) -> None:
    try:
        pause = 0.001
        while child.poll() is None:
            interrupts.check()
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
    except BaseException:
        _end_group(child)
        raise


def _end_group(child: subprocess.Popen[bytes]) -> None:
    for signum, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signum)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(patience)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def in_own_world(*argv: object) -> list[str]:
    """The same command in mount and process namespaces of its own: whatever it mounts or starts ends with it."""
    own = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return [*own, "--", *(str(word) for word in argv)]


def search_path() -> str:
    """PATH with the system directories that a plain user's shell lacks."""
    return f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"


def find(program: str) -> str | None:
    return shutil.which(program, path=search_path())
