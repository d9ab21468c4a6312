"""How a model of text goes on, token by token: what a recipe says so that its model is served for generation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class LanguageModel(ABC):
    """A model with its text's tokens and its key-value cache. `muster_worker.recipes.chargpt` has one to copy.

    A server has one cache with a slot for each sequence that is computed together with others. A sequence gets a slot
    by `prefill` and is computed there by `step`, until its slot is another's. One thread computes; another may encode
    meanwhile.
    """

    context: int
    """Tokens that a sequence has at most, those of its prompt among them."""

    end_token: int | None = None
    """After this one comes nothing. None: there is no such token."""

    vocabulary: int | None = None
    """How many tokens there are: requests with others are refused. None: nobody knows.

    A device that looks up a token that is not there computes nothing any more until its process is another.
    """

    by_stages: bool = False
    """Whether it goes on with a model that a pipeline divides. There `cache` is for the layers of this rank.

    In the places of the other `pipeline_layers` are modules then that give their first argument, or what came from
    another rank; between two layers goes one tensor.
    """

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The tokens of a prompt."""

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; of two parts it is that of the first and that of the second, one after the other.

        Where a character is cut by that, the first part ends with U+FFFD: it is asked again with one more token.
        """

    @abstractmethod
    def cache(self, slots: int) -> Any:
        """The keys and values of so many sequences of `context` tokens each, on the model's device.

        Of a model that is divided by the recipe's `tensor_plan`, those of this rank's part.
        """

    @abstractmethod
    def prefill(self, cache: Any, slot: int, tokens: Tensor) -> Tensor:
        """The logits (vocabulary,) of what follows a prompt, whose keys and values are in the slot from now on.

        `tokens`: (T,), int64, on the CPU; T is from 1 to `context`. Nothing of the slot's last sequence may be left.
        """

    @abstractmethod
    def step(self, cache: Any, tokens: Tensor, places: Tensor) -> Tensor:
        """The logits (slots, vocabulary) of what follows one more token of each slot.

        `tokens`, `places`: (slots,), int64, on the CPU; the place of a sequence's first token is 0. Slots without a
        sequence have token 0 at place 0, and nobody reads their logits. A slot's logits do not depend on the others.
        """
