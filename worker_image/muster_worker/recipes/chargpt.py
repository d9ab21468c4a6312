"""Text, character by character: a decoder-only transformer of any size learns what comes next. A recipe to copy.

The text is the reference of the Python language that ships with Python itself, so nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Subset, TensorDataset

from muster_worker.train import Config, ConfigurationError, LanguageModel, Recipe, setting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch.distributed.tensor.parallel import ParallelStyle

    Remember = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor | None]]

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

    def forward(self, tokens: Tensor, places: Tensor | None = None) -> Tensor:
        if places is None:
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

    def forward(self, hidden: Tensor, remember: Remember | None = None) -> Tensor:
        """`remember` is told keys and values, and gives all that there are, with a mask of those that count."""
        query, key, value = (self._heads(layer(hidden)) for layer in (self.query, self.key, self.value))
        counts = None
        if remember is not None:
            key, value, counts = remember(key, value)
        mixed = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=counts,
            dropout_p=self._dropout if self.training else 0.0,
            is_causal=counts is None,
        )
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

    def forward(self, hidden: Tensor, remember: Remember | None = None) -> Tensor:
        hidden = hidden + self.dropout(self.attention(self.before_attention(hidden), remember))
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

    def with_cache(self, tokens: Tensor, places: Tensor, remember: Iterable[Remember]) -> Tensor:
        """The same of tokens at these places, each layer that is here with what it remembers."""
        hidden = self.embedding(tokens, places)
        of_each = iter(remember)
        for block in self.blocks:
            hidden = block(hidden, next(of_each)) if isinstance(block, Block) else block(hidden)
        logits: Tensor = self.head(hidden)
        return logits


class KeyValueCache:
    """What each layer has found out about the tokens of each slot: (layers, slots, heads, context, size of a head)."""

    def __init__(self, config: CharGPTConfig, layers: int, slots: int, heads: int, like: Tensor) -> None:
        """`layers`, `heads`: those that are computed here. Has the type of `like`, and is where that is."""
        shape = layers, slots, heads, config.context, config.width // config.heads
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
        self._slots = torch.arange(slots, device=like.device)
        self._context = torch.arange(config.context, device=like.device)

    def of_prompt(self, slot: int) -> list[Remember]:
        """For each layer: it remembers a whole prompt, and looks at nothing else."""

        def remember(layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, None]:
            for kept, new in ((self.keys, key), (self.values, value)):
                length = new.shape[2]
                kept[layer, slot, :, :length] = new[0]
                # What is masked counts nothing, unless it is not a number.
                kept[layer, slot, :, length:] = 0
            return key, value, None

        return [partial(remember, layer) for layer in range(len(self.keys))]

    def of_step(self, places: Tensor) -> list[Remember]:
        """For each layer: it remembers one token of each slot, and looks at all in the slot up to that."""
        counts = (self._context <= places[:, None])[:, None, None]

        def remember(layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            keys, values = self.keys[layer], self.values[layer]
            keys[self._slots, :, places] = key[:, :, 0]
            values[self._slots, :, places] = value[:, :, 0]
            return keys, values, counts

        return [partial(remember, layer) for layer in range(len(self.keys))]


class Writer(LanguageModel):
    """Has a transformer write, character by character."""

    by_stages = True

    def __init__(self, config: CharGPTConfig, model: Transformer) -> None:
        self.context, self.vocabulary = config.context, len(VOCABULARY)
        self._config, self._model = config, model
        self._places = {character: place for place, character in enumerate(VOCABULARY)}

    def encode(self, text: str) -> list[int]:
        unknown = self._places[UNKNOWN]
        return [self._places.get(character, unknown) for character in text]

    def decode(self, tokens: Sequence[int]) -> str:
        return decoded(tokens)

    def cache(self, slots: int) -> KeyValueCache:
        config, blocks = self._config, [block for block in self._model.blocks if isinstance(block, Block)]
        heads = config.heads
        for block in blocks[:1]:
            # Of several ranks that divide a layer, each has some of its heads: as many as its keys have room for.
            keys: Tensor = block.attention.key(self._like.new_zeros(1, config.width))
            heads = keys.shape[1] * config.heads // config.width
        return KeyValueCache(config, len(blocks), slots, heads, self._like)

    def prefill(self, cache: KeyValueCache, slot: int, tokens: Tensor) -> Tensor:
        tokens = tokens.to(self._like.device)[None]
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self._model.with_cache(tokens, places, cache.of_prompt(slot))[0, -1]

    def step(self, cache: KeyValueCache, tokens: Tensor, places: Tensor) -> Tensor:
        tokens, places = tokens.to(self._like.device), places.to(self._like.device)
        return self._model.with_cache(tokens[:, None], places[:, None], cache.of_step(places))[:, 0]

    @property
    def _like(self) -> Tensor:
        """A parameter that is what layers compute with, also where weights are integers."""
        return next(one for one in self._model.parameters() if one.is_floating_point())


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

    def embedding(self, model: nn.Module) -> nn.Module:
        layer: nn.Module = model.embedding
        return layer

    def language_model(self, model: nn.Module) -> LanguageModel:
        return Writer(self.config, model)


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
