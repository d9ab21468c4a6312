"""Text, character by character: a decoder-only transformer of any size learns what comes next. A recipe to copy.

The text is the reference of the Python language that ships with Python itself, so nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Subset, TensorDataset

from muster_worker.train import Config, ConfigurationError, Recipe, setting

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch.distributed.tensor.parallel import ParallelStyle

VOCABULARY = "\n" + "".join(map(chr, range(32, 127)))
"""The characters of which a text is made: a token is a character's place here."""

UNKNOWN = "?"
"""What any other character is read as."""


@dataclass(frozen=True, kw_only=True)
class CharGPTConfig(Config):
    epochs: int = setting(4, minimum=1)
    batch_size: int = setting(32, minimum=1)
    characters: int = setting(400_000, minimum=1000)
    """How much of the text is used, from its beginning."""

    context: int = setting(64, minimum=2)
    """Characters that a sample has, and that the model looks back at most."""

    layers: int = setting(4, minimum=1)
    heads: int = setting(4, minimum=1)
    """Of the attention of each layer."""

    width: int = setting(128, minimum=2)
    """Numbers by which each layer describes a character; a multiple of `heads`."""

    dropout: float = setting(0.0, minimum=0.0, maximum=0.9)


class Embedding(nn.Module):
    """Tokens (N, T) to what stands for them and for their places (N, T, width)."""

    def __init__(self, config: CharGPTConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(len(VOCABULARY), config.width)
        self.places = nn.Embedding(config.context, config.width)
        for table in self.tokens, self.places:
            nn.init.normal_(table.weight, std=0.02)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        embedded: Tensor = self.dropout(self.tokens(tokens) + self.places(places))
        return embedded


class Attention(nn.Module):
    """What each character takes from those before it. Heads are as many as the width that it is given has room for."""

    def __init__(self, config: CharGPTConfig) -> None:
        super().__init__()
        self.query, self.value, self.out = (nn.Linear(config.width, config.width) for _ in range(3))
        # A bias here changes nothing, but its gradient is rounding, from which AdamW makes steps as long as any.
        self.key = nn.Linear(config.width, config.width, bias=False)
        self._of_a_head = config.width // config.heads
        self._dropout = config.dropout

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = (self._heads(layer(hidden)) for layer in (self.query, self.key, self.value))
        dropout = self._dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        found: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return found

    def _heads(self, projected: Tensor) -> Tensor:
        """(N, T, heads * size) to (N, heads, T, size); of several ranks, each has some of the heads."""
        return projected.unflatten(2, (-1, self._of_a_head)).transpose(1, 2)


class Block(nn.Module):
    """One layer, normalised before each of its halves (Xiong et al. 2020): (N, T, width) to (N, T, width)."""

    def __init__(self, config: CharGPTConfig) -> None:
        super().__init__()
        self.before_attention, self.before_layers = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.up = nn.Linear(config.width, 4 * config.width)
        self.down = nn.Linear(4 * config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.dropout(self.attention(self.before_attention(hidden)))
        return hidden + self.dropout(self.down(functional.gelu(self.up(self.before_layers(hidden)))))


class Transformer(nn.Module):
    """Tokens (N, T), int64, to the logits (N, T, characters) of the character that follows each; T up to `context`."""

    def __init__(self, config: CharGPTConfig) -> None:
        super().__init__()
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, len(VOCABULARY)))

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens)
        for block in self.blocks:
            hidden = block(hidden)
        logits: Tensor = self.head(hidden)
        return logits


class CharGPT(Recipe):
    config_type = CharGPTConfig
    learning_rate: ClassVar[float] = 0.002

    def __init__(self, config: CharGPTConfig) -> None:
        super().__init__(config)
        if config.width % config.heads:
            raise ConfigurationError(
                f"spec.recipe.config.width: found {config.width}, wanted a multiple of heads, which are {config.heads}"
            )

    def model(self) -> nn.Module:
        return Transformer(self.config)

    def datasets(self) -> tuple[Subset[Any], Subset[Any]]:
        """Each sample is `context` characters and the ones that follow them; of twenty, one is kept from training."""
        tokens = encoded(load_text()[: self.config.characters])
        length = self.config.context
        count = (len(tokens) - 1) // length
        inputs, targets = (tokens[first : first + count * length].view(count, length) for first in (0, 1))
        samples, order = TensorDataset(inputs, targets), torch.randperm(count).tolist()
        held_out = max(1, count // 20)
        return Subset(samples, order[held_out:]), Subset(samples, order[:held_out])

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output.flatten(0, 1), target.flatten())

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"accuracy": (output.argmax(dim=2) == target).float().mean()}

    def optimizer(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> Any:
        return torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.1)

    def tensor_plan(self, model: nn.Module) -> dict[str, ParallelStyle]:
        """Heads, and the inner of each layer's two halves, are divided; `heads` has to be a multiple of the ways."""
        del model
        from torch.distributed.tensor.parallel import (  # noqa: PLC0415 - takes a second, which training does not pay
            ColwiseParallel,
            RowwiseParallel,
        )

        into = dict.fromkeys(("attention.query", "attention.key", "attention.value", "up"), ColwiseParallel())
        out = dict.fromkeys(("attention.out", "down"), RowwiseParallel())
        return {f"blocks.*.{name}": style for name, style in (into | out).items()}

    def pipeline_layers(self, model: nn.Module) -> list[nn.Module]:
        return [model.embedding, *model.blocks, model.head]


def load_text() -> str:
    """All of it: some 600,000 characters."""
    try:
        from pydoc_data.topics import topics  # noqa: PLC0415 - half a megabyte that other recipes do not need
    except ImportError as error:
        raise ConfigurationError(
            "the recipe chargpt reads the text that ships with Python: pydoc_data.topics is missing"
        ) from error
    return "\n\n".join(topics[name] for name in sorted(topics))


def encoded(text: str) -> Tensor:
    """The text's tokens (characters,), int64."""
    places = {character: place for place, character in enumerate(VOCABULARY)}
    unknown = places[UNKNOWN]
    return torch.tensor([places.get(character, unknown) for character in text])


def decoded(tokens: Iterable[int]) -> str:
    return "".join(VOCABULARY[token] for token in tokens)
