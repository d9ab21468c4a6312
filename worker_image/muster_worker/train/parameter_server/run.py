"""A rank's life where there are parameter servers: as one of them, or as a worker."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from muster_worker.train.device import device_of
from muster_worker.train.errors import ConfigurationError
from muster_worker.train.main import Training, check_shared, initial_model
from muster_worker.train.parameter_server.measured import Measured
from muster_worker.train.parameter_server.server_trainer import ServerTrainer
from muster_worker.train.parameter_server.worker import WorkerTrainer
from muster_worker.train.preflight import preflight
from muster_worker.train.process_group import everywhere, joined
from muster_worker.train.storage import open_storage
from muster_worker.train.trainer import CPU

if TYPE_CHECKING:
    from muster_worker.train.environment import Environment
    from muster_worker.train.recipe import Recipe
    from muster_worker.train.report import Report

log = logging.getLogger(__name__)

GOOD_BYE = 2.0
"""Seconds for the workers to hear that there is nothing more to do, where they have not yet."""


def take_part(recipe: Recipe, environment: Environment, report: Report) -> int:
    """Returns the exit code. The first ranks are servers, one for each address; the others are workers."""
    servers = len(environment.parameter_servers)
    workers = environment.world_size - servers
    if not servers or workers < 1:
        raise ConfigurationError(
            f"MUSTER_PARAMETER_SERVERS: found {servers} for {environment.world_size} processes, wanted the addresses of"
            " spec.strategy.parameterServers servers, and a worker beside them"
        )
    if environment.rank < servers:
        return _serve(recipe, replace(environment, world_size=servers), report, workers)
    return _work(recipe, environment)


def _serve(recipe: Recipe, environment: Environment, report: Report, workers: int) -> int:
    trainer = ServerTrainer(recipe, environment, workers=workers)
    with joined(CPU, environment.rank, environment.world_size):
        storage = open_storage(environment)
        everywhere(lambda: check_shared(trainer, storage, environment))
        found = preflight(environment, CPU)
        measured = Measured(found, lambda all_: report.write(preflight=all_)) if environment.rank == 0 else None
        training = ServerTraining(environment, report, trainer, storage)
        training.resume()
        server = trainer.serve(storage.run_id, measured)
        try:
            if not training.fit():
                return training.termination.exit_code
            training.publish()
            server.stop(GOOD_BYE).wait()
        finally:
            server.stop(None)  # its threads would keep a process whose peers are lost
    return 0


class ServerTraining(Training):
    """Training as ever, among the servers."""

    _trainer: ServerTrainer

    def publish(self) -> None:
        self._save(asynchronous=False)
        self._trainer.end()  # not before: were this server lost now, the workers would still be needed
        super().publish()

    def _progress(self, **fields: Any) -> None:
        """With the bytes that all workers exchanged with all servers."""
        super()._progress(pushedBytes=self._trainer.bytes_pushed, pulledBytes=self._trainer.bytes_pulled, **fields)

    def _finish_epoch(self, epoch: int) -> None:
        super()._finish_epoch(epoch)
        trainer = self._trainer
        log.info("workers pushed %d bytes and pulled %d so far", trainer.bytes_pushed, trainer.bytes_pulled)


def _work(recipe: Recipe, environment: Environment) -> int:
    """A worker has nothing to save: SIGTERM ends it at once, and another gets its lease."""
    alone = replace(environment, rank=0, world_size=1)
    trainer = WorkerTrainer(recipe, alone, device_of(environment))
    if environment.distillation is not None:
        trainer.learn_from(initial_model(environment).program())
    number = environment.rank - len(environment.parameter_servers)
    trainer.work(environment.parameter_servers, f"worker {number} (rank {environment.rank})", environment.rank)
    return 0
