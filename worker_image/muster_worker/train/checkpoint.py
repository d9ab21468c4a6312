"""Checkpoints: written whole, found intact.

A checkpoint is a directory `checkpoints/step-00000800`: the tensors as torch.distributed.checkpoint lays them out,
each rank its part, and `manifest.json` with everything else and the checksum of every file. It is written under
a hidden name, synced, and renamed: what bears the name is whole. What was damaged later fails its checksums, and
the one before it is taken. Where each pod has a directory of its own, one that has it is enough.
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

from muster_worker.train.copies import Copies
from muster_worker.train.durable import (
    check,
    discard,
    publish,
    read_json,
    record_of,
    temporary_beside,
    write_json,
)
from muster_worker.train.errors import ConfigurationError, FormatError, StorageError, UnreadableError
from muster_worker.train.process_group import everywhere, from_rank, gathered, hand_on
from muster_worker.train.storage import CHECKPOINTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from muster_worker.train.durable import FileRecord
    from muster_worker.train.storage import Storage

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FORMAT = 2
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
    id: str
    """See `Checkpoints.id_of`."""
    directory: Path
    state: dict[str, Any]
    held: bool = True
    """Whether this rank's own directory has it."""
    giver: int | None = None
    """The rank that hands it on where some directory does not have it; None where all do."""


@dataclass(frozen=True)
class _Look:
    """What one rank found of a checkpoint, as the others hear of it. `id` None: it is not there whole."""

    directory: int
    id: str | None
    fault: StorageError | None


class Checkpoints:
    """All methods that say so are collective: every rank calls them at the same step."""

    def __init__(self, storage: Storage, *, keep: int, on_saved: Callable[[Saved], None]) -> None:
        """`on_saved` is called on the first rank of each directory, from the writing thread."""
        self._storage = storage
        self._directory = storage.directory / CHECKPOINTS
        self._keep = keep
        self._on_saved = on_saved
        self._copies = Copies()
        self._best: int | None = None
        self._broken: set[str] = set()
        self._unreadable: str | None = None
        self._writing: threading.Thread | None = None
        self._fault: BaseException | None = None

    def save(
        self, step: int, tensors: dict[str, Any], state: dict[str, Any], *, asynchronous: bool, best: int | None = None
    ) -> None:
        """Collective. `tensors` is a state dict, `state` anything that JSON can hold.

        `best`: the step whose checkpoint is kept however old it is. Asynchronous: returns once the tensors are copied;
        a fault is raised by the next `save` or `wait`.
        """
        self.wait()
        self._best = best
        if not asynchronous:
            self._write(step, tensors, state)
            return
        staged = self._copies.of(tensors)
        # A daemon: a rank that has failed must not wait for a write whose peers are gone.
        self._writing = threading.Thread(
            target=self._write_guarded, args=(step, staged, state), name="checkpoint", daemon=True
        )
        self._writing.start()

    def id_of(self, step: int) -> str:
        """What tells the checkpoint that is saved now from those that earlier runs saved of the same step."""
        return f"{self._storage.run_id}-{step}"

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
            "id": self.id_of(step),
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
        """Keeps `keep` checkpoints up to the one just written, and the best; what comes after is of a lost history."""
        self._broken.discard(name_of(newest))
        steps = [step for step in self._steps() if step <= newest and name_of(step) not in self._broken]
        kept = {name_of(step) for step in steps[: self._keep]}
        kept |= {name_of(step) for step in steps if step == self._best}
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
        """The newest checkpoint that some directory has whole; the same on all ranks. Collective.

        Where each pod has a directory of its own, a pod that has just come has none, and gets it from another. Broken
        ones are logged, and removed by the next save. Each rank verifies a part of the files.

        Raises StorageError where the only ones cannot be read, and ConfigurationError where a newer one is of another
        format: to begin anew, or go on from an older one, would remove what may be whole.
        """
        self._unreadable = None
        own = set(self._steps())
        for step in sorted(set.union(*gathered(own)), reverse=True):
            found = self._intact(step, own=step in own)
            if found is not None:
                return found
        if self._unreadable is not None:
            raise StorageError(
                f"{self._unreadable}: it may be whole, and no other checkpoint is; mend the storage, or remove"
                f" {self._directory} for the training to begin anew"
            )
        return None

    def intact(self, step: int) -> Found | None:
        """The checkpoint of this step, if some directory has it whole; the same on all ranks. Collective."""
        return self._intact(step, own=step in self._steps())

    def _intact(self, step: int, *, own: bool) -> Found | None:
        """`own`: whether this rank's directory has one of its name."""
        directory = self._directory / name_of(step)
        manifest, fault = self._verified(directory) if own else ({}, None)
        looks = gathered(_Look(self._storage.first, None if fault else manifest.get("id"), fault))
        holders = {look.directory for look in looks} - {look.directory for look in looks if look.id is None}
        faults = [look.fault for look in looks if look.fault]
        for fault in faults:
            if isinstance(fault, FormatError):
                raise ConfigurationError(
                    f"spec.storage.path: the checkpoint {directory} was made by another version of the worker's image:"
                    f" {fault}; use an image of that version, or give the job another path"
                ) from fault
        if len({looks[rank].id for rank in holders}) > 1:
            holders, faults = set(), [StorageError("the pods hold different checkpoints of this step")]
        if faults:
            self._note_broken(directory, faults[0])
        if holders:
            the_id = next(look.id for look in looks if look.id is not None and look.directory in holders)
            return self._found(step, the_id, manifest.get("state"), holders, {look.directory for look in looks})
        return None

    def _found(
        self, step: int, the_id: str, state: dict[str, Any] | None, holders: set[int], directories: set[int]
    ) -> Found:
        giver = None if holders == directories else min(holders)
        if giver is not None:
            state = from_rank(giver, state)
        assert state is not None, "whoever has the checkpoint whole has its manifest"
        return Found(step, the_id, self._directory / name_of(step), state, self._storage.first in holders, giver)

    def _note_broken(self, directory: Path, fault: StorageError) -> None:
        self._broken.add(directory.name)
        if isinstance(fault, UnreadableError):
            self._unreadable = f"the checkpoint {directory}: {fault}"
        if self._storage.rank == 0:
            log.warning("skipped the broken checkpoint %s: %s", directory, fault)

    @property
    def broken(self) -> int:
        """How many broken checkpoints `newest_intact` has skipped."""
        return len(self._broken)

    def _verified(self, directory: Path) -> tuple[dict[str, Any], StorageError | None]:
        """Its manifest, and what is wrong with it or with this rank's part of the files."""
        try:
            manifest = read_json(directory / MANIFEST)
            _check_format(manifest)
            for name, wanted in sorted(manifest["files"].items())[self._storage.rank :: self._storage.ranks]:
                check(directory, name, wanted)
        except StorageError as error:
            return {}, error
        return manifest, None

    def load(self, found: Found, tensors: dict[str, Any], *, partial: str | None = None) -> None:
        """Fills the state dict `tensors` in place. Collective.

        `partial`: the dict in it that may have entries of which the checkpoint has nothing; they are taken out.
        """
        everywhere(lambda: self._read(found, tensors, partial))
        if found.giver is not None:
            if partial is not None:
                keep_only(tensors[partial], from_rank(found.giver, set(tensors[partial])))
            hand_on(tensors, found.giver)

    def _read(self, found: Found, tensors: dict[str, Any], partial: str | None) -> None:
        if not found.held:
            return
        reader = dcp.FileSystemReader(found.directory)
        if partial is not None:
            # By torch's planner, each name in the files with the keys that lead there in the state dict.
            paths = reader.read_metadata().planner_data.values()
            keep_only(tensors[partial], {path[1] for path in paths if path[0] == partial})
        try:
            dcp.load(tensors, storage_reader=reader, process_group=self._storage.group)
        except dcp.CheckpointException as error:
            reason = next(iter(error.failures.values()))[0]
            raise StorageError(f"the checkpoint {found.directory} does not fit the recipe's model: {reason}") from error


def _check_format(manifest: dict[str, Any]) -> None:
    if manifest.get("format") != FORMAT:
        raise FormatError(f"its format is {manifest.get('format')}, wanted {FORMAT}")


def keep_only(entries: dict[str, Any], names: set[str]) -> None:
    for name in entries.keys() - names:
        del entries[name]


def name_of(step: int) -> str:
    return f"step-{step:08d}"
