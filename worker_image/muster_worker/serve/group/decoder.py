"""Texts by the ranks of one shard: each remembers its part of keys and values, and the one that answers chooses.

A step is one message to every rank and one answer, which have a few numbers of each text.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from muster_worker.serve.errors import ComputationError
from muster_worker.serve.generate.decoder import Decoder, LostError
from muster_worker.serve.group.shard import Task

if TYPE_CHECKING:
    from torch import Tensor

    from muster_worker.serve.generate.sampling import Rules
    from muster_worker.serve.group.front import Front
    from muster_worker.serve.group.shard import Shard


class ShardDecoder(Decoder):
    """The one of the shard's with this number. `limit`: seconds after which a step that is not done never will be."""

    def __init__(self, front: Front, shard: Shard, number: int, slots: int, limit: float) -> None:
        self.slots = slots
        self._front, self._shard, self._number, self._limit = front, shard, number, limit
        self._lives = [0] * slots
        """In which life of the shard each slot was filled."""

    @property
    def able(self) -> bool:
        with self._front.changed:
            return self._shard.able

    def prefill(self, slot: int, tokens: Tensor, rules: Rules) -> tuple[Tensor, Tensor]:
        with self._front.changed:
            self._lives[slot] = self._shard.life
        return self._computed("prefill", [*rules, torch.tensor(slot), tokens], [slot])

    def step(self, slots: Tensor, tokens: Tensor, places: Tensor, rules: Rules) -> tuple[Tensor, Tensor]:
        return self._computed("step", [*rules, slots, tokens, places], slots.tolist())

    def _computed(self, kind: str, inputs: list[Tensor], slots: list[int]) -> tuple[Tensor, Tensor]:
        front, shard = self._front, self._shard
        task = Task(inputs, kind, {"decoder": self._number})
        deadline = time.monotonic() + self._limit
        with front.changed:
            if any(self._lives[slot] != shard.life for slot in slots):
                raise LostError(died=shard.died)
            if not shard.able:
                raise LostError(died=False)
            shard.begin(task)
            if not front.wait(lambda: task.settled or front.stands_still(task), deadline):
                shard.close()  # it hangs, in the way of whoever asks next
            shard.give_up(task)
        if task.error is not None:
            raise ComputationError(task.error)
        if task.outputs is None:
            raise LostError(died=task.died)
        chosen, logprobs, *_ = task.outputs
        return chosen, logprobs
