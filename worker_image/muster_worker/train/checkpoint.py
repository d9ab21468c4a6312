"""Checkpoints: written whole, found intact.

A checkpoint is a directory `checkpoints/step-00000800`: the tensors as torch.distributed.checkpoint lays them out,
each rank its part, and `manifest.json` with everything else and the checksum of every file. It is written under
a hidden name, synced, and renamed: what bears the name is whole. What was damaged later fails its checksums, and
the one before it is taken.
"""

from __future__ import annotations

import logging
import re
import shutil
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.staging import BlockingAsyncStager

from muster_worker.train.durable import (
    discard,
    fault_of,
    publish,
    read_json,
    record_of,
    temporary_beside,
    write_json,
)
from muster_worker.train.errors import StorageError
from muster_worker.train.process_group import everywhere, gathered
from muster_worker.train.storage import CHECKPOINTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from muster_worker.train.durable import FileRecord
    from muster_worker.train.storage import Storage

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FORMAT = 1
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is safely in the storage."""

    step: int
    bytes: int
    path: str
    """Within the storage."""


@dataclass(frozen=True)
class Found:
    """An intact checkpoint."""

    step: int
    directory: Path
    state: dict[str, Any]


class Checkpoints:
    """All methods that say so are collective: every rank calls them at the same step."""

    def __init__(self, storage: Storage, *, keep: int, on_saved: Callable[[Saved], None]) -> None:
        """`on_saved` is called on the first rank of each directory, from the writing thread."""
        self._storage = storage
        self._directory = storage.directory / CHECKPOINTS
        self._keep = keep
        self._on_saved = on_saved
        self._broken: set[str] = set()
        self._writing: threading.Thread | None = None
        self._fault: BaseException | None = None

    def save(self, step: int, tensors: dict[str, Any], state: dict[str, Any], *, asynchronous: bool) -> None:
        """Collective. `tensors` is a state dict, `state` anything that JSON can hold.

        Asynchronous: returns once the tensors are copied; a fault is raised by the next `save` or `wait`.
        """
        self.wait()
        if not asynchronous:
            self._write(step, tensors, state)
            return
        staged = BlockingAsyncStager().stage(tensors)
        # A daemon: a rank that has failed must not wait for a write whose peers are gone.
        self._writing = threading.Thread(
            target=self._write_guarded, args=(step, staged, state), name="checkpoint", daemon=True
        )
        self._writing.start()

    def wait(self) -> None:
        """Until nothing is being written; raises what went wrong in the background."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault

    def _write_guarded(self, step: int, tensors: dict[str, Any], state: dict[str, Any]) -> None:
        try:
            self._write(step, tensors, state)
        except BaseException as error:  # noqa: BLE001 - raised again in the training thread
            self._fault = error

    def _write(self, step: int, tensors: dict[str, Any], state: dict[str, Any]) -> None:
        final = self._directory / name_of(step)
        temporary = temporary_beside(final, self._storage.run_id)
        group = self._storage.group
        try:
            try:
                dcp.save(tensors, storage_writer=dcp.FileSystemWriter(temporary), process_group=group)
            except dcp.CheckpointException as error:
                raise self._not_written(step, next(iter(error.failures.values()))[0]) from error
            parts = everywhere(lambda: self._checksums_of_own(step, temporary), group)
            files = {name: record for part in parts for name, record in part.items()}
            everywhere(lambda: self._commit(step, temporary, final, files, state), group)
        except StorageError:
            if self._storage.rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _checksums_of_own(self, step: int, directory: Path) -> dict[str, FileRecord]:
        """Each rank reads what it has just written itself, while the system still has it in memory."""
        own = f"__{self._storage.rank}_"
        try:
            return {
                path.name: record_of(path)
                for path in directory.iterdir()
                if path.name.startswith(own) or (self._storage.rank == 0 and path.name.startswith(".metadata"))
            }
        except OSError as error:
            raise self._not_written(step, error) from error

    def _commit(
        self, step: int, temporary: Path, final: Path, files: dict[str, FileRecord], state: dict[str, Any]
    ) -> None:
        if self._storage.rank != 0:
            return
        manifest = {
            "format": FORMAT,
            "id": f"{self._storage.run_id}-{step}",
            "step": step,
            "savedAt": time.time(),
            "files": files,
            "state": state,
        }
        try:
            write_json(temporary / MANIFEST, manifest)
            publish(temporary, final)
            self._prune(newest=step)
        except OSError as error:
            raise self._not_written(step, error) from error
        size = sum(record["bytes"] for record in files.values())
        self._on_saved(Saved(step, size, f"{CHECKPOINTS}/{final.name}"))

    def _prune(self, newest: int) -> None:
        """Keeps `keep` checkpoints up to the one just written; what comes after it belongs to a lost history."""
        self._broken.discard(name_of(newest))
        steps = [step for step in self._steps() if step <= newest and name_of(step) not in self._broken]
        kept = {name_of(step) for step in steps[: self._keep]}
        for step in self._steps():
            if name_of(step) not in kept:
                discard(self._directory / name_of(step))
        self._broken.clear()

    def _not_written(self, step: int, error: BaseException) -> StorageError:
        reason = getattr(error, "strerror", None) or str(error)
        try:
            free = f", {shutil.disk_usage(self._directory).free:,} bytes are free"
        except OSError:
            free = ""
        return StorageError(
            f"the checkpoint of step {step} could not be written to {self._directory}: {reason}{free}; "
            "give spec.storage more room, or lower spec.checkpoint.keep"
        )

    def _steps(self) -> list[int]:
        """Of the directories that bear a checkpoint's name, newest first."""
        names = (_NAME.fullmatch(path.name) for path in self._directory.iterdir())
        return sorted((int(name[1]) for name in names if name), reverse=True)

    def newest_intact(self) -> Found | None:
        """The newest checkpoint that every rank finds whole; the same on all. Collective.

        Broken ones are logged, and removed by the next save. Each rank verifies a part of the files.
        """
        known = gathered(self._steps())
        for step in sorted(set.intersection(*map(set, known)), reverse=True):
            manifest, fault = self._verified(self._directory / name_of(step))
            answers = gathered((manifest.get("id"), fault))
            faults = [fault for _, fault in answers if fault]
            if not faults and len({identity for identity, _ in answers}) > 1:
                faults = ["the pods hold different checkpoints of this step"]
            if not faults:
                return Found(step, self._directory / name_of(step), manifest["state"])
            self._broken.add(name_of(step))
            if self._storage.rank == 0:
                log.warning("skipped the broken checkpoint %s: %s", self._directory / name_of(step), faults[0])
        return None

    @property
    def broken(self) -> int:
        """How many broken checkpoints `newest_intact` has skipped."""
        return len(self._broken)

    def _verified(self, directory: Path) -> tuple[dict[str, Any], str | None]:
        try:
            manifest = read_json(directory / MANIFEST)
        except StorageError as error:
            return {}, str(error)
        if manifest.get("format") != FORMAT:
            return {}, f"its format is {manifest.get('format')}, wanted {FORMAT}"
        files = sorted(manifest["files"].items())
        mine = files[self._storage.rank :: self._storage.ranks]
        return manifest, next((fault for name, wanted in mine if (fault := fault_of(directory, name, wanted))), None)

    def load(self, found: Found, tensors: dict[str, Any]) -> None:
        """Fills the state dict `tensors` in place. Collective."""
        reader = dcp.FileSystemReader(found.directory)
        try:
            dcp.load(tensors, storage_reader=reader, process_group=self._storage.group)
        except dcp.CheckpointException as error:
            reason = next(iter(error.failures.values()))[0]
            raise StorageError(f"the checkpoint {found.directory} does not fit the recipe's model: {reason}") from error


def name_of(step: int) -> str:
    return f"step-{step:08d}"
