"""The storage of a job as the ranks see it: writable, and one directory for all of them or one a pod."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.distributed as dist

from muster_worker.train.durable import HIDDEN, clear_leftovers
from muster_worker.train.errors import StorageError
from muster_worker.train.process_group import everywhere, from_rank

if TYPE_CHECKING:
    from pathlib import Path

    from muster_worker.train.environment import Environment

CHECKPOINTS = "checkpoints"
MODEL = "model"


@dataclass(frozen=True)
class Storage:
    """The directory, and the ranks that share it: they write one checkpoint together."""

    directory: Path
    group: dist.ProcessGroup
    """Of its own, always gloo: checkpoints are written in the background, beside the messages of training."""

    run_id: str
    """The same on all ranks, new at every start."""

    @property
    def rank(self) -> int:
        """Among those that share the directory."""
        return dist.get_rank(self.group)

    @property
    def first(self) -> int:
        """The first of those that share the directory, counted among all ranks: what tells directories apart."""
        return dist.get_process_group_ranks(self.group)[0]

    @property
    def ranks(self) -> int:
        return dist.get_world_size(self.group)


def open_storage(environment: Environment) -> Storage:
    """Collective. Raises StorageError on every rank when any of them cannot write to its directory."""
    run_id = from_rank(0, uuid.uuid4().hex)
    checkpoints = environment.storage / CHECKPOINTS
    probe = environment.storage / f"{HIDDEN}probe-{run_id}"

    def prepare() -> None:
        try:
            checkpoints.mkdir(parents=True, exist_ok=True)
            if environment.rank == 0:
                probe.write_text("is this storage shared?")
            elif not os.access(checkpoints, os.W_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise StorageError(
                f"MUSTER_STORAGE: {environment.storage} cannot be written ({error.strerror}), wanted a writable "
                "volume: look at spec.storage and at the volume's access mode"
            ) from error

    everywhere(prepare)
    shared = all(everywhere(probe.exists))
    hosts = everywhere(lambda: environment.host)
    if environment.rank == 0:
        probe.unlink()
    members = range(len(hosts)) if shared else [rank for rank, host in enumerate(hosts) if host == environment.host]
    group = dist.new_group(list(members), backend="gloo", use_local_synchronization=True)
    storage = Storage(environment.storage, group, run_id)
    if storage.rank == 0:
        clear_leftovers(environment.storage)
        clear_leftovers(checkpoints)
    return storage
