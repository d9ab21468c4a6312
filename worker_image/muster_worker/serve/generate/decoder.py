"""What computes and chooses the next token of sequences that each have a slot: here, or wherever the model is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from muster_worker.serve.errors import ComputationError, causes
from muster_worker.serve.generate.sampling import choose

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from muster_worker.serve.generate.sampling import Rules
    from muster_worker.train.language_model import LanguageModel


_OF_DEVICE = getattr(torch, "AcceleratorError", ())
"""What torch 2.8 and later raises where a device has failed, such as by an assertion of its own."""


class LostError(Exception):
    """Whoever computed has gone, and what it remembered of all slots with it: another may compute them anew.

    `died`: whether it may have died of what it computed.
    """

    def __init__(self, *, died: bool = True) -> None:
        super().__init__()
        self.died = died


class Decoder(Protocol):
    """For one thread. Tensors are on the CPU, tokens, slots and places int64."""

    slots: int

    @property
    def able(self) -> bool:
        """Whether there is anybody to compute."""

    def prefill(self, slot: int, tokens: Tensor, rules: Rules) -> tuple[Tensor, Tensor]:
        """What follows the tokens (T,), which the slot has from now on, by the rules of one: as `choose` gives it.

        Raises RequestError or LostError.
        """

    def step(self, slots: Tensor, tokens: Tensor, places: Tensor, rules: Rules) -> tuple[Tensor, Tensor]:
        """What follows one more token of each of these slots: as `choose` gives it.

        `slots`, `tokens`, `places`: (N,); the place of a sequence's first token is 0. Raises as `prefill`.
        """


class LocalDecoder(Decoder):
    """By the model in this process.

    A step has the same shape whoever is there. So what comes of a sequence does not depend on the others, not even in
    the last bit: sums are added in the same order. And nothing is copied, for the cache is used where it is.
    """

    able = True

    def __init__(
        self, model: LanguageModel, slots: int, *, chooses: bool = True, lost: Callable[[], None] = lambda: None
    ) -> None:
        """Where it does not choose, because others do, nothing follows. `lost`: see ServedModel."""
        self.slots = slots
        self._model = model
        self._choose = choose if chooses else _nothing
        self._lost = lost
        with torch.inference_mode():
            self._cache = model.cache(slots)

    def prefill(self, slot: int, tokens: Tensor, rules: Rules) -> tuple[Tensor, Tensor]:
        try:
            with torch.inference_mode():
                return self._choose(self._model.prefill(self._cache, slot, tokens)[None], rules)
        except Exception as error:  # whatever a model raises
            raise failed(error, self._lost) from error

    def step(self, slots: Tensor, tokens: Tensor, places: Tensor, rules: Rules) -> tuple[Tensor, Tensor]:
        all_tokens, all_places = torch.zeros(2, self.slots, dtype=torch.int64)
        all_tokens[slots], all_places[slots] = tokens, places
        try:
            with torch.inference_mode():
                return self._choose(self._model.step(self._cache, all_tokens, all_places)[slots], rules)
        except Exception as error:  # whatever a model raises
            raise failed(error, self._lost) from error


def _nothing(logits: Tensor, rules: Rules) -> tuple[Tensor, Tensor]:
    del logits, rules
    return torch.empty(0, dtype=torch.int64), torch.empty(0)


def failed(error: BaseException, lost: Callable[[], None] = lambda: None) -> ComputationError:
    """Of what a recipe's code has raised; `lost` is told where this process will compute nothing any more."""
    if isinstance(error, ComputationError):  # of another stage, with its words
        return ComputationError(str(error))
    if is_of_device(error):
        lost()
    return ComputationError(f"the model failed: {type(error).__name__}: {error}")


def is_of_device(error: BaseException | None) -> bool:
    """Whether a device has failed: then it computes nothing any more for this process, and does for another."""
    return any(isinstance(one, _OF_DEVICE) for one in causes(error))
