"""A node's own place for models that were fetched: whoever is started there next need not fetch them again.

A model's directory is named after the checksum of its model.json, so that none is taken for another. Those who use it
hold a lock together, as long as they live; one at a time fills it. Where there is no room, those go that nobody uses,
first whoever was not used for longest.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_USED, _FILLED = ".used", ".filled"
"""What the files are called that are locked; the first one's date says when a model was last used."""


@contextlib.contextmanager
def filling(cache: Path, sha256: str, size: int) -> Iterator[tuple[Path, int]]:
    """The directory for that model, for nobody else to fill meanwhile, and the lock of those who use it.

    `size`: its bytes. The lock is an open file: as long as any process has it, nobody takes the model away.

    Raises OSError where it cannot be had, or there is no room for it.
    """
    with _locked(cache / (sha256 + _USED), fcntl.LOCK_SH) as used, _locked(cache / (sha256 + _FILLED), fcntl.LOCK_EX):
        with contextlib.suppress(OSError):
            os.utime(used)
        directory = cache / sha256
        directory.mkdir(exist_ok=True)
        missing = size - sum(file.stat().st_size for file in directory.iterdir())
        if missing > 0 and not os.access(directory, os.W_OK):
            raise PermissionError(errno.EACCES, "another user has begun to fetch it", str(directory))
        _make_room(cache, missing)
        yield directory, used


def _make_room(cache: Path, size: int) -> None:
    for used in sorted(cache.glob("*" + _USED), key=lambda file: file.stat().st_mtime):
        if shutil.disk_usage(cache).free >= size:
            return
        with contextlib.suppress(OSError), _locked(used, fcntl.LOCK_EX | fcntl.LOCK_NB):
            shutil.rmtree(used.with_suffix(""))
    free = shutil.disk_usage(cache).free
    if free < size:
        raise OSError(errno.ENOSPC, f"{size} bytes wanted, {free} are free, and all other models there are in use")


@contextlib.contextmanager
def _locked(file: Path, how: int) -> Iterator[int]:
    # In a directory for all, kernels let nobody open another's file who would create it if it were not there.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(file, os.O_CREAT | os.O_EXCL, 0o666))
    descriptor = os.open(file, os.O_RDONLY)
    try:
        with contextlib.suppress(PermissionError):
            os.fchmod(descriptor, 0o666)  # for whoever else may serve it, whatever the umask
        fcntl.flock(descriptor, how)
        yield descriptor
    finally:
        os.close(descriptor)
