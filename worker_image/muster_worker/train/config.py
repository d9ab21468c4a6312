"""A recipe's settings: a dataclass, and how JSON from a manifest becomes one."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from muster_worker.train.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

FIELD = "spec.recipe.config"

Value = TypeVar("Value")
Settings = TypeVar("Settings")


def setting(default: Value, *, minimum: float | None = None, maximum: float | None = None) -> Value:
    """A field with bounds, both of which are allowed values."""
    field: Value = dataclasses.field(default=default, metadata={"minimum": minimum, "maximum": maximum})
    return field


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What every recipe can be told. A recipe adds its own by a frozen dataclass that inherits from this one.

    In a manifest the names are camelCase: `batch_size` is `spec.recipe.config.batchSize`.
    """

    epochs: int = setting(10, minimum=1)
    """How often every sample is used."""

    batch_size: int = setting(64, minimum=1)
    """Samples in one batch over all ranks together, so that learning does not change with the world size.

    One step of the optimizer uses `gradientAccumulation` such batches.
    """

    seed: int = setting(0, minimum=0)
    """Decides the initial parameters, the order of the samples and everything else that is random."""

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the forward pass; parameters stay float32. auto: bfloat16, else float16, on GPUs; float32 on CPUs."""


def parse_config(config_type: type[Settings], values: Mapping[str, Any], where: str = FIELD) -> Settings:
    """What the JSON object `values` describes; raises ConfigurationError naming every wrong field.

    `config_type`: a dataclass such as a `Config`. `where`: the field of the manifest that holds `values`.
    """
    kinds = {name: _given(kind) for name, kind in get_type_hints(config_type).items()}
    # mypy knows no type variable that is bound to dataclasses.
    fields = {camel_case(field.name): field for field in dataclasses.fields(config_type)}  # type: ignore[arg-type]
    faults = [_unknown(where, name, fields) for name in values if name not in fields]
    arguments = {}
    for name, field in fields.items():
        if name in values:
            try:
                arguments[field.name] = _checked(values[name], kinds[field.name], field.metadata)
            except ValueError as error:
                faults.append(f"{where}.{name}: found {_shown(values[name])}, wanted {error}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            faults.append(f"{where}.{name}: missing, wanted {_wanted(kinds[field.name], field.metadata)}")
    if faults:
        raise ConfigurationError("; ".join(faults))
    return config_type(**arguments)


def config_as_json(config: Config) -> dict[str, Any]:
    """The JSON object that `parse_config` reads back to an equal config."""
    return {camel_case(name): value for name, value in dataclasses.asdict(config).items()}


def camel_case(name: str) -> str:
    return re.sub(r"_(\w)", lambda match: match[1].upper(), name)


def _given(kind: Any) -> Any:
    """The type of a setting that is given, where it need not be: of `float | None`, float."""
    if get_origin(kind) is UnionType:
        return next(one for one in get_args(kind) if one is not NoneType)
    return kind


def _unknown(where: str, name: str, fields: Mapping[str, Any]) -> str:
    return f"{where}.{name}: unknown field, wanted one of {', '.join(sorted(fields))}"


def _checked(value: Any, kind: Any, bounds: Mapping[str, Any]) -> Any:
    converted = _converted(value, kind)
    minimum, maximum = bounds.get("minimum"), bounds.get("maximum")
    if converted is _NOTHING:
        raise ValueError(_wanted(kind, bounds))
    if (minimum is not None and converted < minimum) or (maximum is not None and converted > maximum):
        raise ValueError(_wanted(kind, bounds))
    return converted


_NOTHING = object()


def _converted(value: Any, kind: Any) -> Any:
    """`value` as `kind`, or `_NOTHING` when it is something else: "3" is no whole number, true is no number."""
    if get_origin(kind) is Literal:
        return value if value in get_args(kind) else _NOTHING
    if get_origin(kind) in (list, tuple) and isinstance(value, list):
        items = [_converted(item, get_args(kind)[0]) for item in value]
        return _NOTHING if _NOTHING in items else get_origin(kind)(items)
    if kind is float:
        return _number(value)
    if isinstance(value, bool) and kind is not bool:
        return _NOTHING
    return value if isinstance(kind, type) and isinstance(value, kind) else _NOTHING


def _number(value: Any) -> Any:
    """Strings are taken too: Kubernetes discourages floats, so manifests write "0.1"."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return _NOTHING
    try:
        number = float(value)
    except ValueError:
        return _NOTHING
    return number if math.isfinite(number) else _NOTHING


def _wanted(kind: Any, bounds: Mapping[str, Any]) -> str:
    names = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
    if get_origin(kind) is Literal:
        wanted = "one of " + ", ".join(map(str, get_args(kind)))
    elif get_origin(kind) in (list, tuple):
        wanted = f"a list, each item {_wanted(get_args(kind)[0], {})}"
    else:
        wanted = names.get(kind, str(kind))
    if bounds.get("minimum") is not None:
        wanted += f", at least {bounds['minimum']}"
    if bounds.get("maximum") is not None:
        wanted += f", at most {bounds['maximum']}"
    return wanted


def _shown(value: Any) -> str:
    return json.dumps(value)
