"""Sequences that are computed together: they join and leave between steps, and each step is one token of each.

A step has the same shape whoever is there. So what comes of a sequence does not depend on the others, not even in the
last bit: sums are added in the same order. And nothing is copied, for the cache is used where it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from muster_worker.serve.errors import ComputationError
from muster_worker.serve.generate.sampling import choose

if TYPE_CHECKING:
    from muster_worker.serve.generate.sampling import Chosen
    from muster_worker.serve.generate.sequence import Sequence
    from muster_worker.train.language_model import LanguageModel


class Batch:
    """For one thread."""

    def __init__(self, model: LanguageModel, slots: int) -> None:
        self._model = model
        self._slots: list[Sequence | None] = [None] * slots
        with torch.inference_mode():
            self._cache = model.cache(slots)

    @property
    def sequences(self) -> list[Sequence]:
        return [sequence for sequence in self._slots if sequence is not None]

    @property
    def free(self) -> int:
        return self._slots.count(None)

    def join(self, sequence: Sequence) -> Chosen:
        """The first token after its prompt; there has to be a slot. Raises ComputationError, and it has not joined."""
        slot = self._slots.index(None)
        try:
            with torch.inference_mode():
                logits = self._model.prefill(self._cache, slot, torch.tensor(sequence.prompt))
                (chosen,) = self._chosen([sequence], logits[None])
        except Exception as error:  # whatever a model raises
            raise failed(error) from error
        if isinstance(chosen, ComputationError):
            raise chosen
        self._slots[slot] = sequence
        return chosen

    def step(self) -> list[tuple[Sequence, Chosen | ComputationError]]:
        """The next token of each, which has taken the one before."""
        there = [slot for slot, sequence in enumerate(self._slots) if sequence is not None]
        if not there:
            return []
        sequences = self.sequences
        tokens, places = torch.zeros(2, len(self._slots), dtype=torch.int64)
        tokens[there] = torch.tensor([sequence.last for sequence in sequences])
        places[there] = torch.tensor([sequence.place for sequence in sequences])
        try:
            with torch.inference_mode():
                logits = self._model.step(self._cache, tokens, places)
                return list(zip(sequences, self._chosen(sequences, logits[there]), strict=True))
        except Exception as error:  # noqa: BLE001 - whatever a model raises
            return [(sequence, failed(error)) for sequence in sequences]

    def leave(self, sequence: Sequence) -> None:
        self._slots[self._slots.index(sequence)] = None

    def _chosen(self, sequences: list[Sequence], logits: torch.Tensor) -> list[Chosen | ComputationError]:
        logits = logits.cpu()
        wrong = logits.isnan().any(1)
        logits = logits.masked_fill(wrong[:, None], 0.0)
        chosen = choose(logits, [one.parameters for one in sequences], [one.draws for one in sequences])
        return [
            ComputationError("the model failed: a logit is not a number") if is_wrong else one
            for one, is_wrong in zip(chosen, wrong.tolist(), strict=True)
        ]


def failed(error: Exception) -> ComputationError:
    """Of what a recipe's code has raised."""
    return ComputationError(f"the model failed: {type(error).__name__}: {error}")
