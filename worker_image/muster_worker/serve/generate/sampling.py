"""Which token comes next: the likeliest, or one that is drawn. Each sequence has rules of its own.

It is chosen where the logits are, by the device and the process that computed them: of a vocabulary of 128,000 they are
half a megabyte, and what is chosen is two numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster_worker.serve.generate.parameters import Parameters


CANDIDATES = 1024
"""Tokens that are put in order where few are drawn from: to order 128,000 takes 12 ms on a CPU."""


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
        self.number = self._drawn()
        """From 0 to below 1: decides the next token, also where that is computed anew since whoever did is lost."""

    def advance(self) -> None:
        self.number = self._drawn()

    def _drawn(self) -> float:
        return torch.rand((), dtype=torch.float64, generator=self._generator).item()


class Rules(NamedTuple):
    """By which the next token of each of N sequences is chosen: each (N,), on the CPU."""

    temperature: Tensor
    """float64; 0: the likeliest."""

    top_k: Tensor
    """int64; 0: all."""

    top_p: Tensor
    """float64."""

    number: Tensor
    """float64, from 0 to below 1: it decides. Whoever chooses has no seed, and may choose for others anew."""

    @classmethod
    def of(cls, parameters: Sequence[Parameters], draws: Sequence[Draws]) -> Rules:
        return cls(
            torch.tensor([one.temperature for one in parameters], dtype=torch.float64),
            torch.tensor([one.top_k for one in parameters]),
            torch.tensor([one.top_p for one in parameters], dtype=torch.float64),
            torch.tensor([one.number for one in draws], dtype=torch.float64),
        )

    def rows(self, rows: Tensor) -> Rules:
        return Rules(*(one[rows] for one in self))


def choose(logits: Tensor, rules: Rules) -> tuple[Tensor, Tensor]:
    """A token for each row of `logits` (N, vocabulary), on whatever device, and its log probability.

    Both (N,), int64 and float64, on the CPU. Of a row without a largest number the log probability is none.
    """
    largest, tokens = logits.max(1)
    wrong = ~largest.isfinite()
    logits = logits.double()
    if wrong.any():
        logits = logits.masked_fill(wrong[:, None], 0.0)
    drawn = rules.temperature > 0
    if drawn.any():
        tokens[drawn] = _drawn(logits[drawn], rules.rows(drawn))
    logprobs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)
    return tokens.cpu(), logprobs.masked_fill(wrong, math.nan).cpu()


def _drawn(logits: Tensor, rules: Rules) -> Tensor:
    """One number decides, and nothing but the row."""
    weights = ((logits - logits.amax(1, keepdim=True)) / rules.temperature[:, None].to(logits.device)).exp()
    tokens = torch.empty(len(weights), dtype=torch.int64, device=weights.device)
    few = (rules.top_k > 0) | (rules.top_p < 1)
    if few.any():
        tokens[few] = _of_the_likeliest(weights[few], rules.rows(few), CANDIDATES)
    if not few.all():
        tokens[~few] = _picked(weights[~few], rules.number[~few])
    return tokens


def _of_the_likeliest(weights: Tensor, rules: Rules, candidates: int) -> Tensor:
    """Looks at so many of the likeliest, and at all where the rules leave more."""
    size = weights.shape[1]
    candidates = min(candidates, size)
    _, top_k, top_p, _ = (one[:, None].to(weights.device) for one in rules)
    # In order of likelihood, and of tokens where it is the same: on every device, whoever else is there.
    tokens = weights.topk(candidates, sorted=False).indices.sort().values
    likeliest, order = weights.gather(1, tokens).sort(descending=True, stable=True)
    beyond = (top_k > 0) & (torch.arange(candidates, device=weights.device) >= top_k)
    likeliest.masked_fill_(beyond, 0.0)
    wanted = top_p * torch.where(top_k > 0, likeliest.sum(1, keepdim=True), weights.sum(1, keepdim=True))
    together = likeliest.cumsum(1)
    beyond = together - likeliest >= wanted
    beyond[:, 0] = False  # the likeliest is always one of them
    places = _picked(likeliest.masked_fill(beyond, 0.0), rules.number)
    found = tokens.gather(1, order.gather(1, places[:, None]))[:, 0]
    short = torch.where(top_k > 0, top_k > candidates, together[:, -1:] < wanted)[:, 0]
    if candidates < size and short.any():
        found[short] = _of_the_likeliest(weights[short], rules.rows(short.cpu()), size)
    return found


def _picked(weights: Tensor, number: Tensor) -> Tensor:
    """In each row the place where the weights together exceed that part of their sum."""
    together = weights.cumsum(1)
    whole = together[:, -1:].contiguous()
    places = torch.searchsorted(together, number[:, None].to(weights.device) * whole, right=True)
    # By rounding, the part may be the sum itself, which comes after all.
    return places.minimum(torch.searchsorted(together, whole))[:, 0]
