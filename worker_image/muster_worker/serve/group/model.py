"""A model that is computed by a group: batches are divided among its shards, and what is lost is computed again."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

import torch

from muster_worker.serve.errors import TRIES, ComputationError, NotReadyError, TimedOutError, TooManyDeathsError
from muster_worker.serve.group.decoder import ShardDecoder
from muster_worker.serve.group.shard import EXPLAIN, Task
from muster_worker.serve.model import NOT_OF_TEXT, Model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from muster_worker.serve.explain import GoesOn
    from muster_worker.serve.generate.decoder import Decoder
    from muster_worker.serve.group.front import Front
    from muster_worker.serve.group.shard import Shard
    from muster_worker.serve.model import Signature
    from muster_worker.train.language_model import LanguageModel

HANGS = 0.5
"""A computation that has taken so much of the time that a batch may take, and is not done at its end, never will be."""


class GroupModel(Model):
    """Computes by the ranks of `front`; `limit`: seconds that a batch may take, or a step of texts."""

    def __init__(
        self,
        signature: Signature,
        sha256: str,
        front: Front,
        limit: float,
        language_model: LanguageModel | None = None,
        *,
        embeds: bool = False,
    ) -> None:
        """`language_model`: makes tokens of texts and texts of tokens, and computes nothing.

        `embeds`: whether its token ids are explained by the vectors that they become.
        """
        self.signature = signature
        self.version = sha256[:12]
        self.sha256 = sha256
        stages = front.layout.pipeline
        writes = language_model is not None and (stages == 1 or language_model.by_stages)
        self.language_model = language_model if writes else None
        self.why_no_text = (
            NOT_OF_TEXT
            if language_model is None
            else f"spec.group.parallelism.pipeline: found {stages}, wanted 1, or a language_model that says by_stages"
        )
        self.embeds = embeds
        self.divided = front.layout.shard_size > 1
        """Whether no rank has the whole model."""

        self._front = front
        self._limit = limit
        self._turns = itertools.count()

    def compute(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Waits for a shard while there is none.

        Raises ComputationError with the model's own words, or TimedOutError, or NotReadyError.
        """
        return self.computed(inputs)

    def computed(self, inputs: Sequence[Tensor], kind: str = "compute") -> list[Tensor]:
        """What the ranks answer to frames of this kind, of which each shard gets some of the samples.

        Waits and raises as `compute`.
        """
        deadline = time.monotonic() + self._limit
        with self._front.changed:
            shards = self._shards(deadline)
            tasks = [Task(part, kind) for part in self._parts(inputs, len(shards))]
            for shard, task in zip(shards, tasks, strict=False):
                shard.begin(task)
            try:
                outputs = [self._outputs(task, deadline) for task in tasks]
            except TimedOutError:
                self._free_from(tasks)
                raise
        if len(outputs) == 1:
            return list(outputs[0])
        return [torch.cat(pieces) for pieces in zip(*outputs, strict=True)]

    def explain(self, inputs: Sequence[Tensor], target: Tensor | None, goes_on: GoesOn) -> list[Tensor]:
        """By one shard, beside what it computes otherwise. Raises what `compute` does."""
        deadline = time.monotonic() + self._limit
        task = Task([*inputs, *([] if target is None else [target])], EXPLAIN, {"inputs": len(inputs)})
        with self._front.changed:
            self._shards(deadline)[0].begin(task)
            try:
                return list(self._outputs(task, deadline, goes_on))
            finally:
                self._give_up(task)

    def decoders(self, slots: int) -> list[Decoder]:
        if self.language_model is None:
            return []
        return [
            ShardDecoder(self._front, shard, number, each, self._limit)
            for shard in self._front.shards
            for number, each in enumerate(self._front.layout.slots_of_decoders(slots))
        ]

    def _parts(self, inputs: Sequence[Tensor], shards: int) -> list[Sequence[Tensor]]:
        """One for each shard, or as many as there are samples."""
        if not self.signature.batched:
            return [inputs]
        count = min(shards, len(inputs[0]))
        return list(zip(*(tensor.tensor_split(count) for tensor in inputs), strict=True))

    def _shards(self, deadline: float) -> list[Shard]:
        """Those that can compute, in the order in which it is their turn."""
        able: list[Shard] = []

        def found() -> bool:
            able[:] = [shard for shard in self._front.shards if shard.able]
            return bool(able)

        if not self._front.wait(found, deadline):
            raise NotReadyError(f"nobody was there to compute within {self._limit:g} s: {self._front.missing}")
        turn = next(self._turns) % len(able)
        return sorted(able[turn:] + able[:turn], key=lambda shard: shard.busy)

    def _outputs(self, task: Task, deadline: float, goes_on: GoesOn = lambda: True) -> Sequence[Tensor]:
        deaths = 0

        def decided() -> bool:
            return task.settled or self._front.stands_still(task) or not goes_on()

        while self._front.wait(decided, deadline) and goes_on():
            if task.error is not None:
                raise ComputationError(task.error)
            if task.outputs is not None:
                return task.outputs
            deaths += task.died
            if deaths == TRIES:
                raise TooManyDeathsError
            shard = self._shards(deadline)[0]
            self._give_up(task)
            shard.begin(task)
        raise TimedOutError(f"no answer within {self._limit:g} s")

    def _give_up(self, task: Task) -> None:
        for shard in self._front.shards:
            shard.give_up(task)

    def _free_from(self, tasks: Sequence[Task]) -> None:
        """Shards that hang in one of these, in the way of whoever asks next; not one that had no time for it."""
        for shard in self._front.shards:
            if shard.computing_for > HANGS * self._limit and any(shard.has(task) for task in tasks):
                shard.close()
