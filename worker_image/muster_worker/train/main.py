"""One rank's life, from top to bottom: join, find the state, train, leave or export.

Importing this module has no side effects and starts no thread, so that a process can import it, fork, and have
ranks that start at once.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import torch._dynamo  # noqa: F401 - DDP imports it on first use, 0.3 s that a fork of this process does not pay

from muster_worker.compress.apply import compress
from muster_worker.compress.manifest import parse_steps
from muster_worker.train.checkpoint import Checkpoints
from muster_worker.train.device import device_of
from muster_worker.train.durable import read_json
from muster_worker.train.environment import Environment
from muster_worker.train.errors import ConfigurationError, TrainingError
from muster_worker.train.export import export_model
from muster_worker.train.memory import keep_memory
from muster_worker.train.model_directory import DESCRIPTION, load_model, published_model, summary
from muster_worker.train.preflight import preflight
from muster_worker.train.process_group import Agreed, Left, everywhere, from_rank, joined, of_patience
from muster_worker.train.reference import load_recipe
from muster_worker.train.report import Report
from muster_worker.train.sample_log import SampleLog
from muster_worker.train.storage import MODEL, open_storage
from muster_worker.train.stragglers import Stragglers
from muster_worker.train.strategy.layout import PARAMETER_SERVER
from muster_worker.train.termination import Termination, until_there_is_something_to_save
from muster_worker.train.trainer import Throughput, Trainer

if TYPE_CHECKING:
    from pathlib import Path

    from muster_worker.train.checkpoint import Saved
    from muster_worker.train.export import Trained
    from muster_worker.train.model_directory import LoadedModel, Published
    from muster_worker.train.storage import Storage

log = logging.getLogger("muster_worker.train")


def run(recipe: str) -> None:
    """Trains `recipe`, written `module:Class`, as the rank that the environment describes.

    Returns when training is complete and the model published. Ends the process with 143 or 75 when a SIGTERM to
    this or another rank made all of them save and leave, with 2 when the job is written wrongly, with 1 when the
    storage fails. Any other error is raised.
    """
    until_there_is_something_to_save()
    keep_memory()
    report = Report(None)
    try:
        environment = Environment.read(os.environ)
        report = Report(environment.report)
        _log_to_stdout(environment.rank)
        code = _train(recipe, environment, report)
    except TrainingError as error:
        report.error(str(error))
        print(f"error: {error}", file=sys.stderr, flush=True)  # noqa: T201 - the last words of a process
        sys.exit(error.exit_code)
    if code:
        sys.exit(code)


def _log_to_stdout(rank: int) -> None:
    level = logging.INFO if rank == 0 else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stdout)


def _train(reference: str, environment: Environment, report: Report) -> int:
    recipe = load_recipe(reference, environment.recipe_config)
    parse_steps(environment.compression)
    if environment.strategy.type == PARAMETER_SERVER:
        from muster_worker.train.parameter_server.run import take_part  # noqa: PLC0415 - grpc does not survive a fork

        return take_part(recipe, environment, report)
    device = device_of(environment)
    # Before joining: what is wrong with the recipe is then every rank's own error, and no rank waits for another.
    trainer = Trainer(recipe, environment, device)
    with joined(device, environment.rank, environment.world_size):
        storage = open_storage(environment)
        # Together: a rank that ended alone would take the others with it before they have said why.
        everywhere(lambda: check_shared(trainer, storage, environment))
        found = preflight(environment, device)
        if environment.rank == 0:
            report.write(preflight=found)
        training = Training(environment, report, trainer, storage)
        training.resume()
        if not training.fit():
            return training.termination.exit_code
        training.publish()
    return 0


def check_shared(trainer: Trainer, storage: Storage, environment: Environment) -> None:
    if trainer.layout.divides and storage.ranks != environment.world_size:
        raise ConfigurationError(
            f"spec.storage: each pod has a directory of its own, and type {trainer.layout.strategy} leaves no pod with"
            " the whole model: wanted a persistentVolumeClaim that all pods can write to"
        )


def initial_model(environment: Environment) -> LoadedModel:
    """What `spec.initialModel` names; raises ConfigurationError when it is not there, or not the one of before."""
    wanted = environment.initial_model
    if wanted is None:
        raise ConfigurationError("spec.distillation: found without a teacher, wanted spec.initialModel beside it")
    model = load_model(wanted.directory)
    found = summary(model).sha256
    if wanted.sha256 and found != wanted.sha256:
        raise ConfigurationError(
            f"spec.initialModel: the model's checksum is {found}, wanted {wanted.sha256}: it was replaced since"
            " this job was admitted"
        )
    return model


class Training:
    """The trainer with everything around it: checkpoints, reports, leaving early, the finished model."""

    def __init__(self, environment: Environment, report: Report, trainer: Trainer, storage: Storage) -> None:
        self.termination = Termination()
        trainer.leaves = lambda: self.termination.requested
        self._environment = environment
        self._report = report
        self._trainer = trainer
        self._storage = storage
        self._policy = environment.checkpoint
        self._checkpoints = Checkpoints(storage, keep=self._policy.keep, on_saved=self._report_checkpoint)
        self._throughput = Throughput()
        self._stragglers = Stragglers(trainer.layout.stage_of) if trainer.compares_ranks else None
        self._saved_step = -1
        self._saved_at = time.monotonic()
        self._resumed_from = 0
        self._first_step_reported = False

    def resume(self) -> None:
        """Goes on from the newest intact checkpoint, if there is one. Collective."""
        found = self._checkpoints.newest_intact()
        if self._environment.distillation is not None:
            everywhere(self._learn_from_initial_model)
        elif found is None and self._environment.initial_model is not None:
            everywhere(self._begin_with_initial_model)
        self._trainer.connect()
        if self._trainer.layout.divides:
            log.info("a process holds %d of %d bytes of parameters", *self._trainer.parameter_bytes())
        if found is not None:
            everywhere(lambda: self._trainer.check_same_job(found.state, found.directory.parent))
            tensors = self._trainer.tensors()
            self._checkpoints.load(found, tensors, partial="optimizer")
            self._trainer.restore(tensors, found.state)
            self._resumed_from = self._saved_step = found.step
            self._trainer.checkpoint = found.id
            log.info("going on from %s", found.directory)
        if self._checkpoints.broken:
            self._progress(brokenCheckpoints=self._checkpoints.broken)

    def _learn_from_initial_model(self) -> None:
        model = initial_model(self._environment)
        self._trainer.learn_from(model.program())
        log.info("learning from the model that %s made", model.description["origin"]["recipe"])

    def _begin_with_initial_model(self) -> None:
        model = initial_model(self._environment)
        if model.quantized:
            raise ConfigurationError(
                "spec.initialModel: its weights are quantized, wanted floating point numbers, which training changes:"
                " train it without the step quantize, and quantize what this job makes of it"
            )
        self._trainer.begin_with(model.weights())
        log.info("starting from the model that %s made", model.description["origin"]["recipe"])

    def fit(self) -> bool:
        """Trains to the last epoch; False when the ranks left before it, state saved."""
        try:
            self._fit()
        except Left:
            # Whoever ends first ends the group: nobody may while another's storage, which is slower, has not all.
            everywhere(lambda: self._save(asynchronous=False))
            log.info("leaving at step %d, state saved", self._trainer.progress.step)
            return False
        return True

    def _fit(self) -> None:
        """Raises Left."""
        trainer, progress = self._trainer, self._trainer.progress
        samples = SampleLog(
            self._environment.sample_log if trainer.layout.speaks else None,
            run_id=self._storage.run_id,
            rank=self._environment.rank,
            world_size=self._environment.world_size,
            step=progress.step,
        )
        self.termination.watch()
        while not trainer.complete:
            epoch = progress.epoch + 1
            if trainer.epoch_is_over:  # and was left before it was evaluated
                self._after_step(epoch, Agreed(leave=False, save=False, loss=0.0))
                continue
            for step, shares, loaded in trainer.rest_of_epoch():
                self._throughput.start_step()
                agreed = trainer.train_step(
                    step, shares, loaded, leave=self.termination.requested, save=self._save_is_due()
                )
                self._throughput.end_step(step.samples)
                if self._stragglers is not None:
                    self._stragglers.look(agreed.seconds)
                samples.write(epoch=epoch, step=progress.step, samples=[index for mine in shares for index in mine])
                self._after_step(epoch, agreed)
                if agreed.leave and not trainer.complete:
                    raise Left

    def _save_is_due(self) -> bool:
        """By the clock of rank 0, which decides for all."""
        seconds = self._policy.every_seconds
        passed = time.monotonic() - self._saved_at
        return self._environment.rank == 0 and seconds is not None and passed >= seconds

    def _after_step(self, epoch: int, agreed: Agreed) -> None:
        trainer, progress = self._trainer, self._trainer.progress
        evaluated = trainer.epoch_is_over
        if evaluated:
            self._finish_epoch(epoch)
        self._report_step(epoch, agreed.loss, evaluated=evaluated)
        every = self._policy.every_steps
        is_best = evaluated and trainer.best_step == progress.step
        if not trainer.complete and (agreed.save or is_best or (every and progress.step % every == 0)):
            self._save(asynchronous=self._policy.asynchronous)

    def _finish_epoch(self, epoch: int) -> None:
        metrics = self._trainer.finish_epoch()
        shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        log.info("epoch %d of %d: %s", epoch, self._trainer.recipe.config.epochs, shown)
        if self._trainer.stopped:
            log.info("ending after epoch %d: nothing gets better", epoch)

    def _save(self, *, asynchronous: bool) -> None:
        step = self._trainer.progress.step
        if step != self._saved_step:
            self._checkpoints.save(
                step,
                self._trainer.tensors(),
                self._trainer.state(),
                asynchronous=asynchronous,
                best=self._trainer.best_step,
            )
            self._trainer.checkpoint = self._checkpoints.id_of(step)
        self._saved_step, self._saved_at = step, time.monotonic()
        if not asynchronous:
            self._checkpoints.wait()

    def publish(self) -> None:
        """Saves the final state and publishes the model; at once when both are there already. Collective."""
        self._save(asynchronous=False)
        self._take_best()
        trainer, directory = self._trainer, self._storage.directory / MODEL
        steps = self._environment.compression
        origin = trainer.origin() | ({"compression": steps} if steps else {})
        there = published_model(directory, origin) if self._environment.rank == 0 else None
        trained = None if from_rank(0, there is not None) else trainer.trained()
        everywhere(lambda: self._publish(directory, there, trained), of_patience())

    def _take_best(self) -> None:
        """The model of the best checkpoint, where one is kept and another is the last. Collective."""
        trainer = self._trainer
        trainer.published = trainer.progress
        best = trainer.best_step
        if best is None or best == trainer.progress.step:
            return
        found = self._checkpoints.intact(best)
        if found is None:
            log.warning("the best checkpoint, of step %d, is not there whole: the last one is published", best)
            return
        weights = trainer.weights()
        self._checkpoints.load(found, weights)
        trainer.take(weights, found.state)
        log.info("publishing the best model, of step %d", best)

    def _publish(self, directory: Path, there: Published | None, trained: Trained | None) -> None:
        if self._environment.rank != 0:
            return
        trainer = self._trainer
        published = there
        if published is None:
            assert trained is not None, "the first rank has what is not there yet"
            if self._environment.compression:
                trained = compress(trained, self._environment.compression, trainer.evaluate_alone)
            published = export_model(directory, trained, self._storage.run_id)
        compression = read_json(directory / DESCRIPTION).get("compression")  # one of an earlier version has none
        self._progress(
            epoch=trainer.progress.epoch,
            **trainer.published.metrics,
            learningRate=trainer.learning_rate,
            model={
                "path": MODEL,
                "step": trainer.published.step,
                "bytes": published.bytes,
                "sha256": published.sha256,
                **({"compression": compression} if compression else {}),
            },
        )
        log.info("the model is in %s", directory)

    def _report_step(self, epoch: int, loss: float, *, evaluated: bool) -> None:
        if self._first_step_reported and not evaluated and not self._report.due:
            return
        self._progress(
            epoch=epoch,
            learningRate=self._trainer.learning_rate,
            samplesPerSecond=self._throughput.read(),
            **({"stragglers": self._stragglers.slow()} if self._stragglers is not None else {}),
            **(self._trainer.progress.metrics if evaluated else {"loss": loss}),
        )
        self._first_step_reported = True

    def _progress(self, **fields: Any) -> None:
        if self._environment.rank == 0:
            self._report.write(
                step=self._trainer.progress.step,
                totalSteps=self._trainer.total_steps,
                totalEpochs=int(self._trainer.recipe.config.epochs),
                resumedFromStep=self._resumed_from,
                **fields,
            )

    def _report_checkpoint(self, saved: Saved) -> None:
        if self._environment.rank == 0:
            self._report.write(checkpoint={"step": saved.step, "bytes": saved.bytes, "path": saved.path})
