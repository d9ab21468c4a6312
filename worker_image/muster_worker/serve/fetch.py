"""Copies a model directory from where fsspec can read (https, s3, …) onto this machine, once.

What is there already and intact is not copied again, and a file that broke off is gone on with where its server allows
that. Credentials are whatever fsspec's file systems find in the environment.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import socket
import sys
import time
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster_worker.serve.cache import filling
from muster_worker.serve.supervisor import end_with
from muster_worker.train.durable import fault_of, read_json
from muster_worker.train.errors import ConfigurationError, StorageError, TrainingError
from muster_worker.train.model_directory import DESCRIPTION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import BinaryIO

log = logging.getLogger(__name__)

_CHUNK = 8 << 20  # bytes
TRIES = 5
_FIRST_PAUSE = 0.5
"""Seconds before a file that broke off is gone on with; doubled each time."""

_SILENT = 60.0
"""Seconds without a byte after which a file that comes in one piece has broken off."""

_FIELD = "spec.model.uri"


def fetch_apart(uri: str, directory: Path, sha256: str | None, cache: Path | None = None) -> int:
    """The same in a process of its own, for file systems bring threads, and this one will fork; gives its exit code.

    This one uses what is in the cache then, to its end: it is sent the lock, so that there is no moment without it.
    """
    ours, theirs = socket.socketpair()

    def run() -> int:
        try:
            fetch(uri, directory, sha256, cache, lambda lock: socket.send_fds(theirs, [b"\0"], [lock]))
        except TrainingError as error:
            print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the last words of a process
            return error.exit_code
        return 0

    child = os.fork()
    if child == 0:
        end_with(run, "fetch")
    theirs.close()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with ours:
        socket.recv_fds(ours, 1, 1)  # what comes is never closed
    return status if status >= 0 else 128 - status


def fetch(
    uri: str,
    directory: Path,
    sha256: str | None = None,
    cache: Path | None = None,
    keep: Callable[[int], object] = lambda _lock: None,
) -> None:
    """Raises ConfigurationError where there is no such model, StorageError where it cannot be had now.

    `sha256`: what the checksum of its model.json must be; None: anything. `cache`: where this machine keeps models; the
    files in `directory` lead there then, and `keep` is given the lock by which they stay.
    """
    begun = time.monotonic()
    remote = _Remote(uri)
    directory.mkdir(parents=True, exist_ok=True)
    new = directory / f"{DESCRIPTION}.new"
    new.write_bytes(remote.read(DESCRIPTION))
    found = _checksum(new)
    if sha256 is not None and found != sha256:
        raise ConfigurationError(f"spec.model.sha256: the model at {uri} has {found}, wanted {sha256}")
    files = _files(new, uri)
    with _place(directory, cache, found, files, keep) as place:
        faulty = {name: wanted for name, wanted in files.items() if fault_of(place, name, wanted) is not None}
        for name, wanted in faulty.items():
            remote.copy(name, place / name, wanted)
    if place != directory:
        for name in files:
            (directory / name).unlink(missing_ok=True)
            (directory / name).symlink_to(place / name)
    new.replace(directory / DESCRIPTION)
    size = sum(wanted["bytes"] for wanted in faulty.values())
    log.info("fetched %d bytes of %s in %.1f s", size, uri, time.monotonic() - begun)


@contextlib.contextmanager
def _place(
    directory: Path, cache: Path | None, sha256: str, files: Mapping[str, Any], keep: Callable[[int], object]
) -> Iterator[Path]:
    """Where the files go: into the cache, if there is one that can be used."""
    size = sum(wanted["bytes"] for wanted in files.values())
    with contextlib.ExitStack() as stack:
        place = directory
        if cache is not None:
            try:
                place, lock = stack.enter_context(filling(cache, sha256, size))
                keep(lock)
            except OSError as error:
                log.warning("the node's cache of models cannot be used: %s", error)
        yield place


def _checksum(description: Path) -> str:
    return hashlib.sha256(description.read_bytes()).hexdigest()


def _files(description: Path, uri: str) -> dict[str, Any]:
    try:
        files: dict[str, Any] = read_json(description)["files"]
        sizes = [wanted["bytes"] for wanted in files.values()]
    except (StorageError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{_FIELD}: {uri} is no model's directory: {error}") from error
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise ConfigurationError(f"{_FIELD}: {uri} is no model's directory: its files have no sizes")
    for name in files:
        if Path(name).name != name or name in (".", "..") or "\0" in name:
            raise ConfigurationError(f"{_FIELD}: the model at {uri} names the file {name!r}, which is outside of it")
    return files


class _Remote:
    def __init__(self, uri: str) -> None:
        import fsspec  # noqa: PLC0415 - most models are on a volume

        self._uri = uri.rstrip("/")
        try:
            self._files, self._path = fsspec.core.url_to_fs(self._uri)
        except (ValueError, ImportError) as error:
            raise ConfigurationError(f"{_FIELD}: {uri} cannot be read: {error}") from error
        self._block_size = _CHUNK

    def read(self, name: str) -> bytes:
        content: bytes = self._tried(name, lambda: self._files.cat_file(f"{self._path}/{name}"))
        return content

    def copy(self, name: str, target: Path, wanted: Mapping[str, Any]) -> None:
        """The file appears when it is whole."""
        part = target.with_name(f"{name}.part")
        self._tried(name, lambda: self._go_on(name, part, wanted["bytes"]), lambda: _size(part))
        part.replace(target)
        fault = fault_of(target.parent, name, wanted)
        if fault is not None:
            target.unlink()
            raise StorageError(f"{_FIELD}: {self._uri} is broken: {fault}")

    def _go_on(self, name: str, part: Path, size: int) -> None:
        there = _size(part)
        with self._files.open(f"{self._path}/{name}", "rb", block_size=self._block_size) as source:
            if there and not _skipped(source, there, size):
                there = 0
            with part.open("ab" if there else "wb") as file, self._heeding_who_sends_no_parts():
                shutil.copyfileobj(source, file, _CHUNK)
        if part.stat().st_size < size:
            raise OSError(f"it broke off after {part.stat().st_size} of {size} bytes")

    @contextlib.contextmanager
    def _heeding_who_sends_no_parts(self) -> Iterator[None]:
        """A web server need not know of ranges; then fsspec raises ValueError behind the first part."""
        try:
            yield
        except ValueError as error:
            if "http" in self._files.protocol:
                self._files, self._block_size = _in_one_piece(self._files), 0
            raise OSError(f"it is not sent in parts: {error}") from error

    def _tried(self, name: str, work: Any, done: Callable[[], int] = lambda: 0) -> Any:
        """What `work` gives. A try after which more is `done` than after any before is the first of as many again."""
        left, pause, most = TRIES, _FIRST_PAUSE, done()
        while True:
            try:
                return work()
            except Exception as error:
                # File systems raise what their libraries do.
                if _is_refusal(error):
                    raise ConfigurationError(f"{_FIELD}: {self._uri}/{name} cannot be read: {_told(error)}") from error
                if done() > most:
                    left, pause, most = TRIES, _FIRST_PAUSE, done()
                left -= 1
                if left == 0:
                    raise StorageError(f"{_FIELD}: {self._uri}/{name} cannot be fetched: {_told(error)}") from error
                log.warning("%s/%s: %s; another try in %.1f s", self._uri, name, _told(error), pause)
            time.sleep(pause)
            pause *= 2


def _is_refusal(error: Exception) -> bool:
    """Whether another try would change nothing."""
    if isinstance(error, (FileNotFoundError, PermissionError)):
        return True
    return getattr(error, "status", None) in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


def _told(error: Exception) -> str:
    """Not as it is written by `repr`, which has a request's credentials."""
    return f"{type(error).__name__}: {error}"


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _in_one_piece(files: Any) -> Any:
    """The same file system, for whatever time a file takes: by itself, a request of aiohttp's ends after 5 minutes."""
    import aiohttp  # noqa: PLC0415 - as fsspec

    limit = aiohttp.ClientTimeout(total=None, sock_read=_SILENT)
    return type(files)(client_kwargs={"timeout": limit})


def _skipped(source: BinaryIO, there: int, size: int) -> bool:
    """Whether what is there already need not be read again."""
    if there > size:
        return False
    with contextlib.suppress(ValueError, OSError, NotImplementedError):
        source.seek(there)
        return True
    return False
