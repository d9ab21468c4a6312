"""Sequences that are computed together: they join and leave between steps, and each step is one token of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from muster_worker.serve.errors import ComputationError, RequestError
from muster_worker.serve.generate.decoder import failed
from muster_worker.serve.generate.sampling import choose

if TYPE_CHECKING:
    from torch import Tensor

    from muster_worker.serve.generate.decoder import Decoder
    from muster_worker.serve.generate.sampling import Chosen
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
        logits = self._decoder.prefill(slot, torch.tensor(sequence.tokens))
        (chosen,) = _chosen([sequence], logits[None])
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
            logits = self._decoder.step(there, tokens, places)
        except RequestError as error:
            return [(sequence, error) for sequence in sequences]
        return list(zip(sequences, _chosen(sequences, logits), strict=True))

    def leave(self, sequence: Sequence) -> None:
        self._slots[self._slots.index(sequence)] = None

    def clear(self) -> None:
        """All leave."""
        self._slots = [None] * len(self._slots)


def _chosen(sequences: list[Sequence], logits: Tensor) -> list[Chosen | RequestError]:
    try:
        wrong = logits.isnan().any(1)
        logits = logits.masked_fill(wrong[:, None], 0.0)
        chosen = choose(logits, [one.parameters for one in sequences], [one.draws for one in sequences])
    except Exception as error:  # noqa: BLE001 - what a model gives may be no logits
        return [failed(error) for _ in sequences]
    return [
        ComputationError("the model failed: a logit is not a number") if is_wrong else one
        for one, is_wrong in zip(chosen, wrong.tolist(), strict=True)
    ]
