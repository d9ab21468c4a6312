"""The trainer of a worker: it computes what is leased, with parameters that it pulls."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from muster_worker.train.batches import batches
from muster_worker.train.evaluation import sums_over
from muster_worker.train.parameter_server.client import Client
from muster_worker.train.parameter_server.quantized import ErrorFeedback, check_real
from muster_worker.train.parameter_server.shards import fingerprint, parts_of, tensors_of
from muster_worker.train.parameter_server.wire import packed, unpacked
from muster_worker.train.preflight import figures, flops_of
from muster_worker.train.sharding import share
from muster_worker.train.strategy.base import Strategy
from muster_worker.train.trainer import Trainer, epoch_order, seed_everything

if TYPE_CHECKING:
    from torch import Tensor, nn

    from muster_worker.train.environment import Environment
    from muster_worker.train.parameter_server.leases import Lease
    from muster_worker.train.recipe import Recipe


class WorkerTrainer(Trainer):
    """Alone as far as it knows: what it computes, it is told by a lease."""

    def __init__(self, recipe: Recipe, environment: Environment, device: torch.device) -> None:
        super().__init__(recipe, environment, device)
        self._strategy = Strategy(self.model)
        self._parts = parts_of(self.model, len(environment.parameter_servers))
        self._feedback = ErrorFeedback() if environment.strategy.gradient_compression == "int8" else None
        if self._feedback is not None:
            check_real(self.model)
        self._run, self._known = "", [-1] * len(self._parts)
        self._counted = 0, 0
        self._step = -1
        self._buffers_before: list[Tensor] = []

    @property
    def _tensors(self) -> list[tuple[list[nn.Parameter], list[Tensor]]]:
        """By servers, and looked for each time: a model may put another tensor in a buffer's place."""
        return [tensors_of(self.model, part) for part in self._parts]

    def work(self, addresses: tuple[str, ...], name: str, rank: int) -> None:
        """Until there is nothing more to do. `rank`: among all, by which the servers tell who is slow."""
        self._rank = rank
        flops = flops_of(self._device)
        self._client = Client(
            addresses, name, fingerprint(self.model, self._parts), lambda links: figures(rank, flops, links)
        )
        self._client.work(self._do, self._forget)

    def _forget(self) -> None:
        if self._feedback is not None:
            self._feedback.forget()

    def _do(self, lease: Lease) -> dict[str, Any]:
        """What the first server is told; the bytes are those since it was told last."""
        self._pull(lease)
        told = self._train(lease) if lease.kind == "train" else self._evaluate(lease)
        before, self._counted = self._counted, (self._client.bytes_sent, self._client.bytes_received)
        sent, received = (now - earlier for now, earlier in zip(self._counted, before, strict=True))
        return told | {"rank": self._rank, "sent": sent, "received": received}

    def _pull(self, lease: Lease) -> None:
        known = self._known if lease.run == self._run else [-1] * len(self._parts)
        found = self._client.pull(lease, known)
        with torch.no_grad():
            for (parameters, buffers), (_, payload) in zip(self._tensors, found, strict=True):
                if payload:
                    mine = [*parameters, *buffers]
                    for tensor, value in zip(mine, unpacked(payload, mine), strict=True):
                        tensor.copy_(value)
        self._run, self._known = lease.run, [version for version, _ in found]
        if lease.kind == "train":
            self._begin(lease.step, pulled=any(payload for _, payload in found))

    def _begin(self, step: int, *, pulled: bool) -> None:
        """Has each share of a step begin with the same buffers, where this worker computes several."""
        buffers = [buffer for _, mine in self._tensors for buffer in mine]
        if step != self._step or pulled:
            self._step, self._buffers_before = step, [buffer.detach().clone() for buffer in buffers]
            return
        with torch.no_grad():
            for buffer, before in zip(buffers, self._buffers_before, strict=True):
                buffer.copy_(before)

    def _train(self, lease: Lease) -> dict[str, Any]:
        """Pushes the share's part of the step's mean gradient; gives the sum of its losses and what computing took."""
        began = time.monotonic()
        order = epoch_order(self.recipe.config.seed, lease.epoch, self._plan.samples)
        step = next(self._plan.steps_from(lease.position))
        mine: list[tuple[list[int], int]] = []
        for positions in step.batches:
            part = share(positions, lease.share, lease.shares)
            if part or lease.share == 0:  # running statistics are those of the first share, which computes each batch
                mine.append((order[part.start : part.stop].tolist() or [int(order[positions.start])], len(part)))
        seed_everything(self._device, self.recipe.config.seed, lease.step, lease.share)
        self.model.zero_grad()
        losses: list[float] = []
        loaded = batches(self._training, (indices for indices, _ in mine))
        for _, count in mine:
            batch = self._batch(loaded, count / step.samples)
            self._strategy.compute(batch, self._precision, losses.append)
        seconds = time.monotonic() - began
        self._push(lease)
        loss = sum(loss * count for loss, (_, count) in zip(losses, mine, strict=True))
        return {"loss": loss, "seconds": seconds}

    def _push(self, lease: Lease) -> None:
        payloads = []
        for part, (parameters, buffers) in zip(self._parts, self._tensors, strict=True):
            reached = [(name, one.grad) for name, one in zip(part.parameters, parameters, strict=True)]
            names = [name for name, gradient in reached if gradient is not None]
            gradients = [gradient for _, gradient in reached if gradient is not None]
            mask = torch.tensor([gradient is not None for _, gradient in reached], dtype=torch.uint8)
            sent = gradients if self._feedback is None else self._feedback.encoded(names, gradients)
            payloads.append(packed([mask, *sent, *(buffers if lease.share == 0 else ())]))
        self._client.push(lease, payloads, quantized=self._feedback is not None)

    def _evaluate(self, lease: Lease) -> dict[str, Any]:
        """Sums over the share's validation samples, by the names of metrics."""
        assert self._validation is not None, "there was something to evaluate"
        mine = share(range(len(self._validation)), lease.share, lease.shares)
        size = max(1, self.recipe.config.batch_size // lease.shares)
        chunks = [mine[start : start + size] for start in range(0, len(mine), size)]
        totals = sums_over(self.recipe, self.model, self._validation, chunks, self._precision, self._device)
        return {"sums": {name: total.item() for name, total in totals.items()}}
