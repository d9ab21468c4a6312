"""The ranks of this pod as the agent sees them: started, signalled and watched through the zygote."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from muster_worker.agent.config import Recipe
from muster_worker.agent.zygote import LARGEST_MESSAGE, fork_zygote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from muster_worker.agent.config import AgentConfig, Script, Workload
    from muster_worker.agent.output import Output

# DDP, the optimizers and checkpoints import these at their first use, in the middle of a recovery.
IMPORTED_LATE_BY_TORCH = ("torch._dynamo", "torch.distributed.checkpoint")

KILLED_BY_US = 5.0
"""Seconds to wait for the end of killed ranks. One that takes longer is stuck in the kernel and cannot be helped."""

ZYGOTE_LEAVES = 1.0


class ZygoteDied(RuntimeError):  # noqa: N818 - what happened, not what kind of thing it is
    """The process that ranks are forked from is gone; so are they."""


@dataclass(slots=True)
class Rank:
    """One process. `status` is None while it lives, then its exit code, or minus the signal that ended it."""

    name: str
    global_rank: int
    pid: int | None = None
    status: int | None = None


def preload(workload: Workload) -> tuple[str, ...]:
    """The modules to have imported before the first rank starts."""
    if not isinstance(workload, Recipe):
        return ()
    modules = [name.partition(":")[0] for name in (workload.entry, workload.reference) if ":" in name]
    return (*modules, *IMPORTED_LATE_BY_TORCH)


def script_command(script: Script, source: Path | None) -> list[str]:
    """What to execute: a Python file runs under this interpreter, as torchrun does; anything else is a program."""
    program, *arguments = script.command
    path = Path(program)
    found = program
    if not path.is_absolute():
        for folder in (Path.cwd(), *([source] if source else [])):
            if (folder / path).is_file():
                found = str(folder / path)
                break
    if program.endswith(".py"):
        return [sys.executable, "-u", found, *arguments]
    return [found if os.access(found, os.X_OK) else shutil.which(program) or program, *arguments]


class Ranks:
    def __init__(self, config: AgentConfig, output: Output, zygote: int, channel: socket.socket) -> None:
        self._config = config
        self._output = output
        self._zygote = zygote
        self._channel = channel
        self._generation = 0
        self.ranks: dict[int, Rank] = {}
        """By local rank; those of the last start."""

    @classmethod
    def prepare(cls, config: AgentConfig, output_descriptor: int) -> tuple[int, socket.socket]:
        """Forks the zygote; see `fork_zygote` for when this may be done."""
        source = str(config.source) if config.source else None
        return fork_zygote(preload(config.workload), source, output_descriptor)

    def start(self, environments: Mapping[int, Mapping[str, str]]) -> None:
        """Starts one rank for each environment (by local rank). It returns before they run."""
        self._generation += 1
        self.ranks = {}
        for local_rank, environment in environments.items():
            name = f"{self._generation}.{local_rank}"
            global_rank = int(environment["RANK"])
            self.ranks[local_rank] = Rank(name, global_rank)
            message: dict[str, object] = {"name": name, "environment": dict(environment)}
            workload = self._config.workload
            if isinstance(workload, Recipe):
                message["call"] = [workload.entry, workload.reference]
            else:
                message["command"] = script_command(workload, self._config.source)
            descriptor = self._output.open(label(global_rank))
            try:
                socket.send_fds(self._channel, [json.dumps(message).encode()], [descriptor])
            except OSError as error:
                raise ZygoteDied(str(error)) from error
            finally:
                os.close(descriptor)

    def poll(self) -> None:
        """Takes in what has happened since. Raises `ZygoteDied`."""
        while self._take_in(timeout=0.0):
            pass

    def signal(self, number: int) -> None:
        """Signals all living ranks and, unless it asks them to leave, what they started; also from a signal handler."""
        with contextlib.suppress(OSError):
            self._channel.send(json.dumps({"signal": number}).encode())

    def stop(self, number: int, patience: float) -> None:
        """Signals all ranks; after `patience` seconds kills those that live; waits for their end."""
        if number != signal.SIGKILL:
            self.signal(number)
            self.wait(patience)
        if self.alive:
            self.signal(signal.SIGKILL)
            self.wait(KILLED_BY_US)

    def dump(self, patience: float) -> None:
        """Has all ranks print where they stand, and end: SIGABRT makes Python's fault handler do that."""
        for rank in self.alive:
            if rank.pid is not None:
                with contextlib.suppress(OSError):  # a hang is not worth a core file of all their memory
                    resource.prlimit(
                        rank.pid, resource.RLIMIT_CORE, (0, resource.prlimit(rank.pid, resource.RLIMIT_CORE)[1])
                    )
        self.signal(signal.SIGABRT)
        self.wait(patience)

    def wait(self, seconds: float) -> None:
        """Waits for the end of all ranks, for so long at most."""
        deadline = time.monotonic() + seconds
        while self.alive:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self._take_in(timeout=left)

    def close(self) -> None:
        """Ends the zygote, and with it whatever still runs."""
        for rank in self.ranks.values():
            if rank.pid is not None and rank.status is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(rank.pid, signal.SIGKILL)
        self._channel.close()  # the zygote kills what it has started, and ends; unless it is busy importing
        deadline = time.monotonic() + ZYGOTE_LEAVES
        while time.monotonic() < deadline:
            if os.waitpid(self._zygote, os.WNOHANG)[0]:
                return
            time.sleep(0.01)
        os.kill(self._zygote, signal.SIGKILL)
        os.waitpid(self._zygote, 0)

    @property
    def alive(self) -> list[Rank]:
        return [rank for rank in self.ranks.values() if rank.status is None]

    @property
    def running(self) -> int:
        """How many have really been started and live."""
        return sum(rank.pid is not None for rank in self.alive)

    def stopped(self) -> list[int]:
        """The global ranks that are stopped (SIGSTOP, a debugger): they neither run nor end."""
        return [rank.global_rank for rank in self.alive if rank.pid is not None and _is_stopped(rank.pid)]

    def tail(self, rank: Rank, limit: float) -> list[str]:
        return self._output.tail(label(rank.global_rank), limit)

    def _take_in(self, timeout: float) -> bool:
        self._channel.settimeout(timeout)
        try:
            text = self._channel.recv(LARGEST_MESSAGE)
        except (TimeoutError, BlockingIOError):
            return False
        except OSError as error:
            raise ZygoteDied(str(error)) from error
        finally:
            self._channel.settimeout(None)
        if not text:
            raise ZygoteDied("its end of the socket is closed")
        message = json.loads(text)
        for rank in self.ranks.values():
            if message.get("started") == rank.name:
                rank.pid = message["pid"]
            elif message.get("ended") == rank.name:
                rank.status = message["status"]
        return True


def _is_stopped(pid: int) -> bool:
    """By the state in proc_pid_stat(5)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] in {"T", "t"}


def label(global_rank: int) -> str:
    return f"rank {global_rank}"
