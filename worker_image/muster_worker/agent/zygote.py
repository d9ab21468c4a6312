"""The process that ranks are forked from: torch and the recipe are imported there once, and a restart costs no import.

It is forked from the agent while the agent has one thread only, right after the import of torch that both need.
A `multiprocessing` forkserver would import all of it a second time (1.4 s and 160 MB a pod). Measured with three ranks
on two cores: from the fork to the first DDP step 0.07 s; 1.3 s where `torch._dynamo` is left for DDP to import.

The agent speaks to it through one socket, in JSON: `start` (with the write end of a pipe for what the rank prints)
and `signal`; it says which process it started and how each ended. When the socket closes, all ranks are killed.
"""

from __future__ import annotations

import array
import contextlib
import faulthandler
import gc
import importlib
import json
import multiprocessing
import os
import selectors
import signal
import socket
import sys
import traceback
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.context import ForkProcess

LARGEST_MESSAGE = 1 << 20


def fork_zygote(preload: Sequence[str], source: str | None, output: int) -> tuple[int, socket.socket]:
    """Forks this process; returns the child's pid and the agent's end of the socket. `output` is its standard output.

    Must be called before the process has a second thread.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid:
        theirs.close()
        return pid, ours
    try:
        ours.close()
        _serve(theirs, preload, source, output)
    except BaseException:  # noqa: BLE001 - the frames above are the agent's: nothing may reach them
        traceback.print_exc()
    finally:
        os._exit(1)


def _serve(agent: socket.socket, preload: Sequence[str], source: str | None, output: int) -> NoReturn:
    os.setsid()  # a terminal's Ctrl-C is for the agent alone
    # Not ignored: what a rank gets in its first moments waits for it, where what is ignored is gone.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if source is not None:
        sys.path.insert(0, source)
    _import_all(preload)
    _Zygote(agent).run()
    os._exit(0)


def _import_all(names: Sequence[str]) -> None:
    gc.disable()  # an eighth of the time that the imports take
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - the rank imports it again, and says so with its traceback
            print(f"cannot import {name} ahead of time: {error}", flush=True)  # noqa: T201
    gc.collect()
    gc.freeze()  # keeps the pages shared with the ranks
    gc.enable()


class _Zygote:
    def __init__(self, agent: socket.socket) -> None:
        self._agent = agent
        self._ranks: dict[int, ForkProcess] = {}
        self._asked_to_leave: set[int] = set()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._fork = multiprocessing.get_context("fork")

    def run(self) -> None:
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        with selectors.DefaultSelector() as selector:
            selector.register(self._agent, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fd == self._wake_read:
                        os.read(self._wake_read, 4096)
                    elif not self._obey():
                        self._signal(signal.SIGKILL)
                        return
                self._reap()

    def _obey(self) -> bool:
        """Carries out one message; False when the agent is gone."""
        try:
            text, descriptors = _receive(self._agent)
        except OSError:
            return False
        if not text:
            return False
        message = json.loads(text)
        if "signal" in message:
            self._signal(message["signal"])
        else:
            self._start(message, descriptors[0])
        return True

    def _start(self, message: dict[str, Any], output: int) -> None:
        rank = self._fork.Process(
            target=self._become_rank,
            args=(message["environment"], output, message.get("command"), message.get("call")),
            name=message["name"],
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads of a BLAS: it stops them at a fork itself
            rank.start()
        os.close(output)
        assert rank.pid is not None
        self._ranks[rank.pid] = rank
        self._tell({"started": message["name"], "pid": rank.pid})

    def _become_rank(
        self, environment: dict[str, str], output: int, command: list[str] | None, call: list[str] | None
    ) -> None:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.setsid()  # a rank and what it starts can be signalled as one
        self._agent.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        os.environ.update(environment)
        os.environ.setdefault("PYTHONFAULTHANDLER", "1")
        if command is not None:
            os.execvp(command[0], command)  # noqa: S606 - no shell is what is wanted
        assert call is not None
        faulthandler.enable()
        _call(*call)

    def _signal(self, number: int) -> None:
        for pid in self._ranks:
            if number == signal.SIGTERM and pid in self._asked_to_leave:
                continue  # many programs take a second one for impatience
            self._asked_to_leave.add(pid)
            with contextlib.suppress(ProcessLookupError):
                # Those that read for a rank would die of it, and the rank of their end, before it has saved.
                if number == signal.SIGTERM:
                    os.kill(pid, number)
                else:
                    _signal_all(pid, number)

    def _reap(self) -> None:
        for pid, rank in list(self._ranks.items()):
            status = rank.exitcode
            if status is None:
                continue
            del self._ranks[pid]
            self._asked_to_leave.discard(pid)
            if status != 0:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)  # its data loaders would hold the pipe open
            self._tell({"ended": rank.name, "pid": pid, "status": status})

    def _tell(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self._agent.send(json.dumps(message).encode())


def _signal_all(pid: int, number: int) -> None:
    """The rank and what it has started. Raises ProcessLookupError."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:  # it has no session of its own yet
        os.kill(pid, number)


def _receive(agent: socket.socket) -> tuple[bytes, list[int]]:
    descriptors = array.array("i")
    text, ancillary, _, _ = agent.recvmsg(LARGEST_MESSAGE, socket.CMSG_SPACE(descriptors.itemsize))
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    return text, list(descriptors)


def _call(entry: str, argument: str) -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    module, _, function = entry.partition(":")
    getattr(importlib.import_module(module), function)(argument)
