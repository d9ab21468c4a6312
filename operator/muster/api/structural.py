"""From pydantic's JSON schema to the structural OpenAPI v3 schema that a CRD takes.

https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema

A keyword that is not known here is an error: dropped silently it would be a check that the API server does not make.
Why not the kube-custom-resource package (0.7): it knows no CEL rules and no list map keys, passes unknown keywords
on, follows recursive models without end, and keeps all defaults or none.
"""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

from muster.api.rules import VALIDATIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from muster.api.base import Model

Schema = dict[str, Any]

_REFERENCE = "#/$defs/"
_SAME = {
    "enum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "nullable",
    "required",
    "type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-preserve-unknown-fields",
    VALIDATIONS,
}
# What pydantic calls a bound on a type that has a validator before it, as Int has.
_BOUNDS = {"ge": "minimum", "le": "maximum"}


class NotStructuralError(ValueError):
    """The model says something that a CRD cannot say, or that nobody has looked at yet."""


def structural(model: type[Model]) -> Schema:
    """Return the model's schema as a CRD has it: no references, no unions with null, no titles."""
    schema = model.model_json_schema(by_alias=True)
    return _convert(schema, schema.get("$defs", {}), path=(model.__name__,))


def _convert(schema: Mapping[str, Any], definitions: Mapping[str, Any], path: tuple[str, ...]) -> Schema:
    flat, path = _flatten(schema, definitions, path)
    converted: Schema = {}
    for keyword, value in sorted(flat.items()):
        if keyword == "properties":
            converted["properties"] = {
                name: _convert(inner, definitions, (*path, name)) for name, inner in value.items()
            }
        elif keyword == "items":
            converted["items"] = _convert(value, definitions, (*path, "items"))
        elif keyword == "const":
            converted["enum"] = [value]
        elif keyword in _BOUNDS:
            converted[_BOUNDS[keyword]] = value
        elif keyword == "additionalProperties":
            converted |= _additional_properties(value, definitions, path)
        elif keyword in _SAME:
            converted[keyword] = value
        elif keyword not in {"title", "$defs", "default", "description"}:
            raise NotStructuralError(f"{'.'.join(path)}: no rule for the keyword {keyword} = {value!r}")
    if converted.get("type") == "array" and "x-kubernetes-list-type" not in converted:
        raise NotStructuralError(f"{'.'.join(path)}: a list without ListType, which server-side apply merges wrongly")
    default = _default(flat, converted)
    return _description(flat, default) | converted | default


def _flatten(
    schema: Mapping[str, Any], definitions: Mapping[str, Any], path: tuple[str, ...]
) -> tuple[Schema, tuple[str, ...]]:
    """Put in place what the schema refers to and take out the null of an optional field; outer keywords win."""
    flat = dict(schema)
    while "$ref" in flat or "anyOf" in flat:
        if "$ref" in flat:
            name = flat.pop("$ref").removeprefix(_REFERENCE)
            if f"<{name}>" in path:
                raise NotStructuralError(f"{'.'.join(path)}: {name} contains itself, which no CRD can say")
            path = (*path, f"<{name}>")
            inner = definitions[name]
        else:
            choices = [choice for choice in flat.pop("anyOf") if choice != {"type": "null"}]
            if len(choices) != 1:
                raise NotStructuralError(f"{'.'.join(path)}: a union of {len(choices)} types, which no CRD can say")
            inner = choices[0]
        flat = {**inner, **flat, "description": _both(flat, inner)}
    return flat, path


def _both(outer: Mapping[str, Any], inner: Mapping[str, Any]) -> str:
    """Tell what the field is for and then what its type is."""
    return "\n\n".join(schema["description"] for schema in (outer, inner) if schema.get("description"))


def _description(flat: Mapping[str, Any], default: Schema) -> Schema:
    """Return the text for `kubectl explain`, which wraps lines itself and does not show defaults."""
    paragraphs = inspect.cleandoc(flat.get("description", "")).split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    if default and default["default"] != {}:
        text = f"{text} Default: {json.dumps(default['default'])}.".lstrip()
    return {"description": text} if text else {}


def _additional_properties(value: Any, definitions: Mapping[str, Any], path: tuple[str, ...]) -> Schema:
    """A closed object is one that says nothing: the API server removes what a schema does not name."""
    if value is True:
        return {"x-kubernetes-preserve-unknown-fields": True}
    if value is False:
        return {}
    return {"additionalProperties": _convert(value, definitions, (*path, "*"))}


def _default(flat: Mapping[str, Any], converted: Schema) -> Schema:
    """Return the default to write into stored objects: a scalar, or {} for a block that holds scalar defaults.

    An empty block, list or map means the same as an absent one, so that it is left absent.
    """
    default = flat.get("default")
    if converted.get("type") == "object":
        return {"default": {}} if default is not None and any(_defaults_in(converted)) else {}
    return {} if default is None or default in ([], ()) else {"default": default}


def _defaults_in(schema: Schema) -> Iterator[bool]:
    return ("default" in inner for inner in schema.get("properties", {}).values())
