"""Directories that are there whole or not at all, and the checksums that show it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from typing import TYPE_CHECKING, Any, TypedDict

from muster_worker.train.errors import StorageError, UnreadableError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


HIDDEN = ".muster-"
"""How the names of unfinished directories begin."""


class FileRecord(TypedDict):
    """What a file must be to be intact."""

    bytes: int
    sha256: str


def record_of(path: Path) -> FileRecord:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return FileRecord(bytes=file.tell(), sha256=digest.hexdigest())


def fault_of(directory: Path, name: str, wanted: Mapping[str, Any]) -> str | None:
    """Why `directory/name` is not the file that was recorded; None when it is."""
    try:
        check(directory, name, wanted)
    except StorageError as error:
        return str(error)
    return None


def check(directory: Path, name: str, wanted: Mapping[str, Any]) -> None:
    """Raises StorageError where `directory/name` is not the file that was recorded."""
    try:
        size = (directory / name).stat().st_size
        if size != wanted["bytes"]:
            raise StorageError(f"{name} has {size} bytes instead of {wanted['bytes']}")
        if record_of(directory / name)["sha256"] != wanted["sha256"]:
            raise StorageError(f"{name} has changed: its checksum differs")
    except OSError as error:
        raise _not_read(name, error) from error


def _not_read(name: str, error: OSError) -> StorageError:
    kind = StorageError if isinstance(error, FileNotFoundError) else UnreadableError
    return kind(f"{name} cannot be read: {error.strerror}")


def temporary_beside(final: Path, token: str) -> Path:
    """Where `final` is made before it is published; `token` keeps writers apart."""
    return final.with_name(f"{HIDDEN}{final.name}-{token}")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes `content` with a checksum over itself, through to the disk."""
    body = {**content, "sha256": _content_digest(content)}
    with path.open("w") as file:
        json.dump(body, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote; raises StorageError when it is gone or not what was written."""
    try:
        content = json.loads(path.read_text())
        checksum = content.pop("sha256")
    except OSError as error:
        raise _not_read(path.name, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{path.name} is no complete JSON") from error
    if checksum != _content_digest(content):
        raise StorageError(f"{path.name} has changed: its checksum differs")
    return dict(content)


def _content_digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def publish(temporary: Path, final: Path) -> None:
    """Gives the complete directory `temporary` its name; one of that name is replaced.

    Everything in it must have been synced. A crash leaves either directory or, where one is replaced, for an
    instant none; never a half.
    """
    sync_directory(temporary)
    replaced = [_hide(final)] if final.exists() else []
    temporary.rename(final)
    sync_directory(final.parent)
    for directory in replaced:
        shutil.rmtree(directory)


def discard(directory: Path) -> None:
    """Removes a directory; it vanishes at once for whoever lists its parent."""
    shutil.rmtree(_hide(directory))


def _hide(directory: Path) -> Path:
    hidden = directory.with_name(f"{HIDDEN}discarded-{uuid.uuid4().hex}")
    directory.rename(hidden)
    return hidden


def clear_leftovers(parent: Path) -> None:
    """Removes what writers that were interrupted left in `parent`."""
    for leftover in parent.glob(f"{HIDDEN}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
