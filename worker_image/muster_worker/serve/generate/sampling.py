"""Which token comes next: the likeliest, or one that is drawn. Each sequence has rules of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from muster_worker.serve.generate.parameters import Parameters


@dataclass(frozen=True, slots=True)
class Chosen:
    """`logprob`: of the token, as the model has it, whatever it was drawn from."""

    token: int
    logprob: float


class Draws:
    """Of one sequence: the same seed draws the same, whatever else is computed."""

    def __init__(self, seed: int | None) -> None:
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def next(self) -> float:
        """From 0 to below 1."""
        return torch.rand((), dtype=torch.float64, generator=self._generator).item()


def choose(logits: Tensor, parameters: Sequence[Parameters], draws: Sequence[Draws]) -> list[Chosen]:
    """One for each row of `logits` (N, vocabulary), on the CPU; none of them is NaN."""
    logits = logits.double()
    tokens = logits.argmax(1)
    drawn = [row for row, its in enumerate(parameters) if its.temperature > 0]
    if drawn:
        tokens[drawn] = _drawn(logits[drawn], [parameters[row] for row in drawn], [draws[row] for row in drawn])
    logprobs = logits.log_softmax(1).gather(1, tokens[:, None])[:, 0]
    return [Chosen(token, logprob) for token, logprob in zip(tokens.tolist(), logprobs.tolist(), strict=True)]


def _drawn(logits: Tensor, parameters: Sequence[Parameters], draws: Sequence[Draws]) -> Tensor:
    """By the inverse of the cumulative distribution: one number decides, and nothing but the row."""
    ordered, tokens = logits.sort(dim=1, descending=True, stable=True)
    temperatures, top_p = (
        torch.tensor([getattr(its, name) for its in parameters], dtype=logits.dtype)[:, None]
        for name in ("temperature", "top_p")
    )
    size = logits.shape[1]
    top_k = torch.tensor([min(its.top_k or size, size) for its in parameters])[:, None]
    probabilities = ((ordered - ordered[:, :1]) / temperatures).softmax(1)
    probabilities[torch.arange(size) >= top_k] = 0
    before = probabilities.cumsum(1) - probabilities
    # The likeliest is always one of them.
    beyond = before >= top_p * probabilities.sum(1, keepdim=True)
    beyond[:, 0] = False
    probabilities[beyond] = 0
    cumulative = probabilities.cumsum(1)
    numbers = torch.tensor([one.next() for one in draws], dtype=logits.dtype)[:, None]
    places = torch.searchsorted(cumulative, numbers * cumulative[:, -1:], right=True)
    # By rounding, the number may be the sum itself, which comes after all.
    last = (probabilities > 0).sum(1, keepdim=True) - 1
    return tokens.gather(1, places.minimum(last))[:, 0]
