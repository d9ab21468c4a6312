"""What a request for text may ask for, whichever way it comes.

Names and defaults are those of the Open Inference Protocol's generate extension, and where it has none, of others':
https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/generate_rest.yaml
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from muster_worker.serve.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SEEDS = 1 << 63
"""From 0 to below this: what all of JSON, protobuf and torch's generators can say."""

_STOPS = 256
"""Texts that may end one: each token is looked through for all of them, while those of others wait."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """How a sequence goes on, and when it ends."""

    max_tokens: int = 20
    temperature: float = 1.0
    """Logits are divided by it; 0: always the likeliest token."""

    top_k: int = 0
    """As many of the likeliest tokens are drawn from; 0: all."""

    top_p: float = 1.0
    """The fewest of the likeliest tokens are drawn from that have at least this probability together."""

    seed: int | None = None
    """The same one draws the same. None: nobody knows what is drawn."""

    stop: tuple[str, ...] = ()
    """Texts before which the generated one ends."""

    details: bool = False
    """Whether the tokens and their log probabilities are wanted."""


def parse_parameters(given: Mapping[str, Any]) -> Parameters:
    """Raises RequestError naming the parameter that is not known, or not as it should be."""
    names = [field.name for field in fields(Parameters)]
    for name in given:
        if name not in names:
            raise RequestError(f"parameters.{name}: it is not known, wanted one of {', '.join(names)}")
    wanted: dict[str, tuple[Callable[[Any], Any], str]] = {
        "max_tokens": (_whole(1), "a whole number, at least 1"),
        "temperature": (_number(0.0, math.inf), "a number, at least 0"),
        "top_k": (_whole(0), "a whole number, at least 0"),
        "top_p": (_number(0.0, 1.0), "a number from 0 to 1"),
        "seed": (_whole(0), f"a whole number from 0 to {_SEEDS - 1}"),
        "stop": (_texts, f"a text that is not empty, or a list of at most {_STOPS} such"),
        "details": (_flag, "true or false"),
    }
    read = {}
    for name, value in given.items():
        if value is None:
            continue
        reader, words = wanted[name]
        read[name] = reader(value)
        if read[name] is None:
            raise RequestError(f"parameters.{name}: found {value!r}, wanted {words}")
    return Parameters(**read)


def _whole(least: int) -> Callable[[Any], int | None]:
    return lambda value: value if type(value) is int and least <= value < _SEEDS else None


def _number(least: float, most: float) -> Callable[[Any], float | None]:
    def read(value: Any) -> float | None:
        fits = type(value) in (int, float) and least <= value <= most and math.isfinite(value)
        return float(value) if fits else None

    return read


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _texts(value: Any) -> tuple[str, ...] | None:
    texts = [value] if isinstance(value, str) else value
    fits = isinstance(texts, list) and len(texts) <= _STOPS and all(isinstance(text, str) and text for text in texts)
    return tuple(texts) if fits else None
