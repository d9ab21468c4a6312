"""Kubernetes quantities: `500m`, `4Gi`, `1e3`, read as the API server reads them.

https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic_core import PydanticCustomError, core_schema

from muster.api.rules import Rule

MAX_LENGTH = 64

_BINARY = {suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)}
_DECIMAL = {
    suffix: Decimal(10) ** power
    for suffix, power in {
        "n": -9,
        "u": -6,
        "m": -3,
        "": 0,
        "k": 3,
        "M": 6,
        "G": 9,
        "T": 12,
        "P": 15,
        "E": 18,
    }.items()
}
_FACTORS = _BINARY | _DECIMAL
_QUANTITY = re.compile(
    r"(?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))(?:[eE](?P<exponent>[+-]?[0-9]{1,2})|(?P<suffix>[A-Za-z]*))",
    re.ASCII,
)


def parse_quantity(value: str | float) -> Decimal:
    """Return the amount in the resource's own unit: cores, bytes, devices.

    Raises ValueError for what is not a quantity.
    """
    match = _QUANTITY.fullmatch(str(value))
    factor = _FACTORS.get(match["suffix"] or "") if match else None
    if match is None or factor is None:
        raise ValueError(f"{value!r} is not a quantity: write a number with an optional suffix, like 500m, 2 or 4Gi")
    return Decimal(match["number"]) * (Decimal(10) ** int(match["exponent"]) if match["exponent"] else factor)


class _IntegerOrString:
    """Reads an integer or a string as a string; the CRD has `x-kubernetes-int-or-string`."""

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._read)

    def __get_pydantic_json_schema__(self, _schema: Any, _handler: Any) -> dict[str, Any]:
        return {"x-kubernetes-int-or-string": True, "maxLength": MAX_LENGTH}

    @staticmethod
    def _read(value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise PydanticCustomError("int_or_string", "wanted an integer or a string")
        if len(str(value)) > MAX_LENGTH:
            raise PydanticCustomError("quantity_too_long", f"wanted at most {MAX_LENGTH} characters")
        return str(value)


def _is_amount(value: str) -> bool:
    try:
        return parse_quantity(value) >= 0
    except ValueError:
        return False


Quantity = Annotated[
    str,
    _IntegerOrString(),
    Rule(
        cel="type(self) == string ? isQuantity(self) && sign(quantity(self)) >= 0 : self >= 0",
        holds=_is_amount,
        message="write an amount of at least 0: a number with an optional suffix, like 500m, 2 or 4Gi",
        found="self",
        found_in_cel="(type(self) == string ? self : 'a negative number')",
    ),
]
