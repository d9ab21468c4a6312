"""The trainer of a server: workers compute, the servers make the updates together, and each keeps its part."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import get_model_state_dict

from muster_worker.train.parameter_server.leases import Leases, Opened
from muster_worker.train.parameter_server.server import Served, listen
from muster_worker.train.parameter_server.shard import Shard
from muster_worker.train.parameter_server.shards import fingerprint, parts_of, tensors_of
from muster_worker.train.process_group import Agreed, Left, from_rank
from muster_worker.train.strategy.base import Strategy, keep_only, summed
from muster_worker.train.trainer import Trainer, epoch_order

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc
    from torch import nn
    from torch.utils.data import Dataset

    from muster_worker.train.environment import Environment
    from muster_worker.train.parameter_server.measured import Measured
    from muster_worker.train.recipe import Recipe
    from muster_worker.train.sharding import Step
    from muster_worker.train.strategy.layout import Layout

LOOK_EVERY = 0.2
"""Seconds in which the servers hear that one of them was told to leave, while they wait for workers."""


class Held(Strategy):
    """One server's part of the model, by the names of the whole one. It is not called: workers compute."""

    def __init__(self, layout: Layout, model: nn.Module) -> None:
        parts = parts_of(model, layout.data)
        self.fingerprint = fingerprint(model, parts)
        self.trained, self.buffers = tensors_of(model, parts[layout.rank])
        keep_only(model, {*self.trained, *self.buffers})
        super().__init__(model)

    def gradient_norm(self) -> float:
        return math.sqrt(summed(self._squares()))

    def whole_weights(self) -> dict[str, Any]:
        parts: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
        dist.gather_object(get_model_state_dict(self.module), parts)
        return {name: tensor for part in parts or [] for name, tensor in part.items()}


class ServerTrainer(Trainer):
    """Its ranks are the servers. `workers`: how many there are, or can be: in so many shares each step is computed."""

    def __init__(self, recipe: Recipe, environment: Environment, *, workers: int) -> None:
        self._workers = workers
        super().__init__(recipe, environment, torch.device("cpu"))
        self._address = environment.parameter_servers[environment.rank]
        self._staleness = environment.strategy.staleness
        self._elastic = environment.elastic
        self.bytes_pushed = self.bytes_pulled = 0
        """By all workers, to and from all servers, since the servers started."""

    def _computed_together(self, samples: int) -> int:
        return max(1, samples // self._workers)

    @property
    def compares_ranks(self) -> bool:
        return self._leads and self._workers > 1

    @property
    def _held(self) -> Held:
        assert isinstance(self._strategy, Held), "what `distributed` makes for this layout"
        return self._strategy

    @property
    def _leads(self) -> bool:
        return self.layout.rank == 0

    def serve(self, run: str, measured: Measured | None) -> grpc.Server:
        """Lets workers in, once the state is that from which training goes on.

        `run`: what tells this start of the servers from others. `measured`: hears of the workers' machines; the first
        server's alone.
        """
        self._shard = Shard(self._held.trained, self._held.buffers, self.progress.step)
        self._leases = Leases(run, self._staleness, elastic=self._elastic)
        served = Served(run, self._held.fingerprint, self._shard, self._leases if self._leads else None, measured)
        return listen(self._address, served, self._workers)

    def end(self) -> None:
        """Tells the workers that there is nothing more to do."""
        self._leases.end()

    def rest_of_epoch(self) -> Iterator[tuple[Step, list[list[int]], Iterator[Any]]]:
        """The steps left in this epoch; the first server counts the samples of all workers as its own."""
        order = epoch_order(self.recipe.config.seed, self.progress.epoch, self._plan.samples)
        steps = list(self._plan.steps_from(self.progress.position))
        opened = [
            Opened(number, step.start, shares_of(step, self._workers))
            for number, step in enumerate(steps, start=self.progress.step)
        ]
        self._leases.open(self.progress.epoch, opened)
        for step in steps:
            samples: list[int] = order[step.start : step.stop].tolist() if self._leads else []
            yield step, [samples], iter(())

    def train_step(
        self, step: Step, shares: list[list[int]], loaded: Iterator[Any], *, leave: bool, save: bool
    ) -> Agreed:
        """One update, once the workers have computed all of its shares. Raises Left."""
        del shares, loaded, leave
        told, count, save = self._until_told(save=save)
        progress = self.progress
        self._schedule.before_step(progress.step)
        with self._shard.update(count):
            self._update()
        progress.step += 1
        progress.position = step.stop
        loss = from_rank(0, sum(one["loss"] for one in told) / step.samples)
        progress.epoch_loss += loss * step.samples
        self._leases.advance()
        return Agreed(leave=False, save=save, loss=loss, seconds={one["rank"]: one["seconds"] for one in told})

    def _evaluated(self, validation: Dataset[Any]) -> dict[str, float]:
        """By the workers. Raises Left."""
        count = len(validation)
        self._leases.evaluate(self.progress.step, min(self._workers, count))
        told, _, _ = self._until_told(save=False)
        names = told[0]["sums"] if told else ()
        return from_rank(0, {name: sum(one["sums"][name] for one in told) / count for name in names})

    def _until_told(self, *, save: bool) -> tuple[list[dict[str, Any]], int, bool]:
        """What workers told the first server of the work that is due; others hear when.

        And of how many shares it was, and whether a checkpoint is due. Raises Left once any server is to stop.
        Collective.
        """
        told: list[dict[str, Any]] | None = None
        ready, shares, due = False, 0, False
        while not ready:
            if self._leads:
                told = self._leases.told(LOOK_EVERY)
            # What each of them knows itself: a sum that went round again would grow beyond all numbers, and be zero.
            agreed = torch.tensor([self.leaves(), told is not None, len(told or ()), save], dtype=torch.int64)
            dist.all_reduce(agreed)
            leave, ready, shares, due = agreed.tolist()
            if leave:
                raise Left
        for one in told or []:
            self.bytes_pushed += one["sent"]
            self.bytes_pulled += one["received"]
        return told or [], shares, bool(due)


def shares_of(step: Step, workers: int) -> int:
    """In how many shares a step is computed at most: one for each worker, none of them without a sample."""
    return min(workers, max(len(batch) for batch in step.batches))
