"""TorchServe as a process that ends when this one does, whatever ends this one, and its workers with it."""

from __future__ import annotations

import fcntl
import http.client
import json
import logging
import subprocess
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING

from muster_worker.serve.torchserve.archive import LAST_WORDS, LOCKED
from muster_worker.serve.torchserve.connection import UnixConnection
from muster_worker.serve.torchserve.settings import INFERENCE, METRICS, command
from muster_worker.train.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from muster_worker.serve.torchserve.archive import Archive

log = logging.getLogger(__name__)

_EVERY = 1.0
"""Seconds between two looks at how it is."""

_SILENT = 60.0
"""Seconds without an answer after which it never will give one."""


class LoadError(TrainingError):
    """The last words of whoever could not load the model."""

    def __init__(self, words: str, exit_code: int = TrainingError.exit_code) -> None:
        super().__init__(words)
        self.exit_code = exit_code


class Engine:
    """Serves one archive by so many workers; `limit`: seconds that a batch may take.

    `place`: a directory of its own, with a short path. `inference`: the socket that answers predictions of `name`.
    """

    def __init__(self, archive: Archive, workers: int, limit: float, place: Path) -> None:
        self.name = archive.name
        self.inference = place / INFERENCE
        self.exposition = b""
        self._archive, self._place = archive, place
        self._command = command(archive, workers, limit, place)
        self._heard = 0.0

    @property
    def missing(self) -> str | None:
        """Why nothing is computed now: each worker that has the model holds the lock. For one thread at a time."""
        with (self._archive.directory / LOCKED).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
        return "no worker of TorchServe has loaded the model"

    def start(self, lost: Callable[[int], None]) -> None:
        """Returns once a worker can compute; raises LoadError. `lost` is told the exit code of what ends after that."""
        started: Future[None] = Future()
        threading.Thread(target=self._run, args=(started, lost), daemon=True, name="torchserve").start()
        started.result()

    def _run(self, started: Future[None], lost: Callable[[int], None]) -> None:
        """In one thread from its start to its end: setpriv ties it to the thread."""
        process = subprocess.Popen(self._command, cwd=self._place, start_new_session=True)
        self._heard = time.monotonic()
        while (code := self._look(process, _EVERY if started.done() else _EVERY / 10)) is None:
            if not started.done() and self.exposition and self.missing is None:
                started.set_result(None)
        words = f"TorchServe ended with exit code {code}"
        if started.done():
            log.error("%s", words)
            lost(code)
        else:
            started.set_exception(self._last_words() or LoadError(f"{words} before it had loaded the model"))

    def _look(self, process: subprocess.Popen[bytes], seconds: float) -> int | None:
        """Its exit code, or None when it has not ended for so many seconds."""
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._ask(process)
            return None
        return code if code > 0 else 128 - code

    def _ask(self, process: subprocess.Popen[bytes]) -> None:
        """What it counts, and whether it answers at all."""
        connection = UnixConnection(self._place / METRICS, _SILENT / 10)
        try:
            connection.request("GET", "/metrics")
            self.exposition = connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            if time.monotonic() - self._heard >= _SILENT:
                log.error("TorchServe has not answered for %.0f s", _SILENT)  # noqa: TRY400 - the trace tells no more
                process.kill()
        else:
            self._heard = time.monotonic()
        finally:
            connection.close()

    def _last_words(self) -> LoadError | None:
        try:
            said = json.loads((self._archive.directory / LAST_WORDS).read_text())
        except FileNotFoundError:
            return None
        return LoadError(said["words"], said["exitCode"])
