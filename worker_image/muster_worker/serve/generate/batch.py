"""Sequences that are computed together: they join and leave between steps, and each step is one token of each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from muster_worker.serve.errors import ComputationError, RequestError
from muster_worker.serve.generate.sampling import Chosen, Rules

if TYPE_CHECKING:
    from torch import Tensor

    from muster_worker.serve.generate.decoder import Decoder
    from muster_worker.serve.generate.sequence import Sequence


class Batch:
    """For one thread."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._slots: list[Sequence | None] = [None] * decoder.slots

    @property
    def sequences(self) -> list[Sequence]:
        return [sequence for sequence in self._slots if sequence is not None]

    @property
    def free(self) -> int:
        return self._slots.count(None)

    def join(self, sequence: Sequence) -> Chosen:
        """The next token after those that it has; there has to be a slot.

        Raises RequestError or LostError, and it has not joined.
        """
        slot = self._slots.index(None)
        (chosen,) = _chosen(*self._decoder.prefill(slot, torch.tensor(sequence.tokens), _rules([sequence])))
        if isinstance(chosen, RequestError):
            raise chosen
        self._slots[slot] = sequence
        return chosen

    def step(self) -> list[tuple[Sequence, Chosen | RequestError]]:
        """The next token of each, which has taken the one before. Raises LostError."""
        sequences = self.sequences
        if not sequences:
            return []
        there = torch.tensor([slot for slot, sequence in enumerate(self._slots) if sequence is not None])
        tokens = torch.tensor([sequence.tokens[-1] for sequence in sequences])
        places = torch.tensor([len(sequence.tokens) - 1 for sequence in sequences])
        try:
            found = self._decoder.step(there, tokens, places, _rules(sequences))
        except RequestError as error:
            return [(sequence, error) for sequence in sequences]
        return list(zip(sequences, _chosen(*found), strict=True))

    def leave(self, sequence: Sequence) -> None:
        self._slots[self._slots.index(sequence)] = None

    def clear(self) -> None:
        """All leave."""
        self._slots = [None] * len(self._slots)


def _rules(sequences: list[Sequence]) -> Rules:
    return Rules.of([one.parameters for one in sequences], [one.draws for one in sequences])


def _chosen(tokens: Tensor, logprobs: Tensor) -> list[Chosen | RequestError]:
    return [
        ComputationError("the model failed: a logit is not a number") if math.isnan(logprob) else Chosen(token, logprob)
        for token, logprob in zip(tokens.tolist(), logprobs.tolist(), strict=True)
    ]
