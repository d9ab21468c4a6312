"""Ranks for tests: processes that run a recipe together, forked from one that has torch imported already."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.ports import free_ports

if TYPE_CHECKING:
    from pathlib import Path


LIMIT = 300.0
"""Seconds after which a test gives up waiting."""

CONTEXT = multiprocessing.get_context("forkserver")
_STRATEGIES = [f"muster_worker.train.strategy.{name}" for name in ("ddp", "fsdp", "tensor", "pipeline")]
CONTEXT.set_forkserver_preload(["muster_worker.train.main", "tests.worker.train.recipes", *_STRATEGIES])
LINE = "tests.worker.train.recipes:Line"


@dataclass
class Ranks:
    """Processes that train together."""

    storage: Path
    processes: list[multiprocessing.process.BaseProcess] = field(default_factory=list)

    def wait(self) -> list[int]:
        """Their exit codes, in the order of ranks."""
        deadline = time.monotonic() + LIMIT
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        assert None not in codes, f"ranks are still running after {LIMIT} s: {codes}; {self.output()}"
        return codes

    def output(self) -> str:
        return "".join(path.read_text() for path in sorted(self.storage.parent.glob(f"{self.storage.name}.out*")))

    def reports(self) -> list[dict]:
        path = self.storage.parent / f"{self.storage.name}.report"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def until_step(self, step: int) -> None:
        self.until(lambda: any(line.get("step", 0) >= step for line in self.reports()), f"step {step}")

    def until(self, condition, what: str) -> None:
        deadline = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < deadline, f"no {what} after {LIMIT} s: {self.output()}"
            assert any(process.is_alive() for process in self.processes), f"ended before {what}: {self.output()}"
            time.sleep(0.01)  # between two looks, not instead of one

    def signal(self, rank: int, number: int = signal.SIGTERM) -> None:
        os.kill(self.processes[rank].pid, number)

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


def start(
    storage: Path | list[Path],
    ranks: int = 2,
    *,
    recipe: str = LINE,
    config=None,
    checkpoint=None,
    optimisation=None,
    only=None,
    **environment,
) -> Ranks:
    """Starts `ranks` ranks, or of these those in `only`; a list of storages gives each rank, as a pod of its own,
    another directory.
    """
    storages = storage if isinstance(storage, list) else [storage] * ranks
    (port,) = free_ports(1)
    group = Ranks(storages[0])
    for rank in range(ranks) if only is None else only:
        variables = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "USE_LIBUV": "0",
            "OMP_NUM_THREADS": "1",
            "RANK": str(rank),
            "LOCAL_RANK": "0" if isinstance(storage, list) else str(rank),
            "GROUP_RANK": str(rank) if isinstance(storage, list) else "0",
            "WORLD_SIZE": str(ranks),
            "MUSTER_STORAGE": str(storages[rank]),
            "MUSTER_REPORT": str(group.storage.parent / f"{group.storage.name}.report"),
            "MUSTER_RECIPE_CONFIG": json.dumps(config or {}),
            "MUSTER_CHECKPOINT": json.dumps(checkpoint or {}),
            "MUSTER_OPTIMISATION": json.dumps(optimisation or {}),
            **environment,
        }
        output = group.storage.parent / f"{group.storage.name}.out{rank}"
        process = CONTEXT.Process(target=_live, args=(recipe, variables, str(output)))
        process.start()
        group.processes.append(process)
    return group


def addresses(count: int) -> str:
    """Of so many servers, as MUSTER_PARAMETER_SERVERS has them."""
    return ",".join(f"127.0.0.1:{port}" for port in free_ports(count))


def _live(recipe: str, variables: dict[str, str], output: str) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(variables)
    from muster_worker.train.main import run

    run(recipe)
