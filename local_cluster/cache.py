"""What is expensive to make and the same for every checkout: kept under the user's cache directory by its inputs.

An entry's name holds a hash of all that went into it, so it never goes stale. It is made in a directory
beside its place and renamed, so it is whole or absent; a lock lets one process at a time make it.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from local_cluster import interrupts


def root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "muster"


def key(*inputs: str | bytes | Path) -> str:
    """A hash of texts, and of files by their content; order and boundaries count."""
    digest = hashlib.sha256()
    for item in inputs:
        part = item.read_bytes() if isinstance(item, Path) else item.encode() if isinstance(item, str) else item
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:16]


def entry(kind: str, name: str) -> Path:
    return root() / kind / name


def make(kind: str, name: str, build: Callable[[Path], None]) -> Path:
    """The directory of an entry; `build` fills it first when it is not there yet."""
    place = entry(kind, name)
    if place.is_dir():
        return place
    with lock(kind):
        if place.is_dir():
            return place
        partial = place.with_name(f".partial-{name}")
        shutil.rmtree(partial, ignore_errors=True)  # an earlier build was killed
        partial.mkdir(parents=True)
        try:
            build(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        partial.rename(place)
    return place


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Waits until no other process holds the lock `name` of this cache; it ends with the process that holds it."""
    path = root() / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                interrupts.sleep(0.2)
        yield
    finally:
        os.close(descriptor)
