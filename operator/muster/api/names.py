"""Scalars with a form: names of Kubernetes objects, decimal numbers, paths on a volume, times, a number or `auto`."""

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field, StringConstraints
from pydantic_core import PydanticCustomError, core_schema

from muster.api.rules import BROKEN, Rule, quoted

MAX_PROCESSES = 128
MAX_GROUPS = 1000


def matches(pattern: str, message: str, *, also: str = "", holds: Any = None) -> Rule:
    """Return the rule that a string has this form, and `also` (CEL) which is `holds` (Python).

    The pattern has to mean the same in RE2 and in Python: no classes such as digits or letters by a backslash.
    """
    form = re.compile(pattern.removeprefix("^").removesuffix("$"))
    return Rule(
        cel=f"self.matches({quoted(pattern)})" + (f" && {also}" if also else ""),
        holds=lambda text: form.fullmatch(text) is not None and (holds is None or holds(text)),
        message=message,
        found="self",
    )


ObjectName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=253),
    matches(
        r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
        "write the name of an object in the same namespace: lower-case letters, digits, - and .",
    ),
]

DnsLabel = Annotated[
    str,
    StringConstraints(min_length=1, max_length=63),
    matches(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "write lower-case letters, digits and -, with no - at the ends"),
]

# Decimal numbers are strings: the Kubernetes API has no floats that survive every client.
_DECIMAL = r"^[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]{1,2})?$"

PositiveDecimal = Annotated[
    str,
    StringConstraints(min_length=1, max_length=32),
    matches(
        _DECIMAL,
        'write a decimal number above 0 in quotes, like "0.1"',
        also="double(self) > 0.0",
        holds=lambda text: float(text) > 0,
    ),
]
Fraction = Annotated[
    str,
    StringConstraints(min_length=1, max_length=32),
    matches(
        _DECIMAL,
        'write a decimal number above 0 and below 1 in quotes, like "0.5"',
        also="double(self) > 0.0 && double(self) < 1.0",
        holds=lambda text: 0 < float(text) < 1,
    ),
]
DecimalText = Annotated[
    str,
    StringConstraints(min_length=1, max_length=32),
    matches(_DECIMAL, 'write a decimal number in quotes, like "0.01"'),
]

Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"})]

RelativePath = Annotated[
    str,
    StringConstraints(min_length=1, max_length=512),
    Rule(
        cel="!self.startsWith('/') && self.split('/').all(part, part != '..')",
        holds=lambda path: not path.startswith("/") and ".." not in path.split("/"),
        message="write a path relative to the volume's root, without '..', like models/digits",
        found="self",
    ),
]


class _IntOrString:
    """A number or a text, as Kubernetes' IntOrString is."""

    def __init__(self, wanted: str, cel: str, holds: Callable[[Any], bool]) -> None:
        self._wanted = wanted
        self._rule = Rule(
            cel=cel,
            holds=holds,
            message=f"write {wanted}",
            found="self",
            found_in_cel="(type(self) == string ? self : 'a number out of that range')",
        )

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._read)

    def __get_pydantic_json_schema__(self, _schema: Any, _handler: Any) -> dict[str, Any]:
        return {
            "x-kubernetes-int-or-string": True,
            "maxLength": 16,
            "x-kubernetes-validations": [self._rule.schema()],
        }

    def _read(self, value: Any) -> int | str:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise PydanticCustomError("int_or_string", "{text}", {"text": f"wanted {self._wanted}"})
        complaint = self._rule.complaint(value)
        if complaint is not None:
            raise PydanticCustomError(BROKEN, "{text}", {"text": complaint, "broken": [("", complaint)]})
        return value


AutoOrCount = Annotated[
    int | str,
    _IntOrString(
        f"auto or a whole number from 1 to {MAX_PROCESSES}",
        cel=f"type(self) == string ? self == 'auto' : self >= 1 && self <= {MAX_PROCESSES}",
        holds=lambda value: value == "auto" if isinstance(value, str) else 1 <= value <= MAX_PROCESSES,
    ),
]

_PERCENT = re.compile(r"(100|[1-9]?[0-9])%")

GroupsOrPercent = Annotated[
    int | str,
    _IntOrString(
        f"a whole number from 0 to {MAX_GROUPS} or a percentage like 25%",
        cel=f"type(self) == string ? self.matches('^(100|[1-9]?[0-9])%$') : self >= 0 && self <= {MAX_GROUPS}",
        holds=lambda value: (
            _PERCENT.fullmatch(value) is not None if isinstance(value, str) else 0 <= value <= MAX_GROUPS
        ),
    ),
]
