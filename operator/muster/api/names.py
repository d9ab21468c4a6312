"""Strings with a form: names of Kubernetes objects, decimal numbers, paths on a volume, times."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, StringConstraints

from muster.api.rules import Rule, quoted


def matches(pattern: str, message: str) -> Rule:
    """Return the rule that a string has this form. The pattern must mean the same in RE2 and in Python: no \\d, no \\w."""
    form = re.compile(pattern.removeprefix("^").removesuffix("$"))
    return Rule(
        cel=f"self.matches({quoted(pattern)})",
        holds=lambda text: form.fullmatch(text) is not None,
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

Decimal = Annotated[
    str,
    StringConstraints(min_length=1, max_length=32),
    matches(
        r"^[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?$",
        'write a decimal number of at least 0 in quotes, like "0.1"',
    ),
]
"""A decimal number in quotes: the Kubernetes API has no floats that survive every client."""

Measured = Annotated[str, Field()]
"""A measured decimal number, as a string."""

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
