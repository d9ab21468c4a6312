"""Sentences about a manifest that does not hold: the field as the manifest has it, what was found, what is wanted."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any

from muster.api.modeldeployment import ModelDeployment
from muster.api.rules import BROKEN
from muster.api.structural import structural
from muster.api.trainingjob import TrainingJob

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_LONGEST = 60
_KINDS = {model.__name__: model for model in (TrainingJob, ModelDeployment)}

_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "a string (numbers, true and false need quotes)",
    "bool_type": "true or false",
    "dict_type": "an object",
    "model_type": "an object",
    "tuple_type": "a list",
    "list_type": "a list",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "too_short": "at least {min_length} items",
    "too_long": "at most {max_length} items",
    "literal_error": "{expected}",
}


def explain(error: ValidationError) -> str:
    """Return all that is wrong as one line."""
    return "; ".join(
        sentence for detail in error.errors(include_url=False) for sentence in _sentences(detail, error.title)
    )


def _sentences(detail: ErrorDetails, kind: str) -> Iterable[str]:
    path = path_of(detail["loc"])
    context = detail.get("ctx", {})
    if detail["type"] == BROKEN:
        return [_placed(path + at, message) for at, message in context["broken"]]
    if detail["type"] == "missing":
        return [f"{path} is missing: write it"]
    if detail["type"] == "extra_forbidden":
        return [_placed(path, _unknown(detail["loc"], kind))]
    wanted = _WANTED.get(detail["type"])
    if wanted is None:
        return [_placed(path, detail["msg"])]
    return [f"{path}: found {_shown(detail['input'])}, wanted {wanted.format_map(context)}"]


def path_of(location: Iterable[str | int]) -> str:
    """Return a location as people write it: `spec.compression[0].clip`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _placed(path: str, message: str) -> str:
    """Put the path before the sentence unless it begins with it."""
    return message if not path or message.startswith(path) else f"{path}: {message}"


def _unknown(location: tuple[str | int, ...], kind: str) -> str:
    name = str(location[-1])
    near = get_close_matches(name, _siblings(location[:-1], kind), n=1)
    return f"there is no such field: did you mean {near[0]}?" if near else "there is no such field: leave it out"


def _siblings(location: Iterable[str | int], kind: str) -> list[str]:
    """Return the fields that exist where the location leads."""
    schema = _schema(kind)
    for part in location:
        inner = schema.get("items", {}) if isinstance(part, int) else schema.get("properties", {}).get(part, {})
        schema = inner or schema.get("additionalProperties", {})
    return list(schema.get("properties", {}))


@cache
def _schema(kind: str) -> dict[str, Any]:
    return structural(_KINDS[kind])


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
