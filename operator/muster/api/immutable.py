"""What of a spec stays as it was made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.api.rules import Rule

if TYPE_CHECKING:
    from collections.abc import Container

    from muster.api.base import Model


def frozen_fields(model: type[Model], changeable: Container[str]) -> tuple[Rule, ...]:
    """Return a rule on `spec` for each of the model's fields that may not change after creation."""
    names = (str(field.alias) for field in model.model_fields.values())
    return tuple(_frozen(name) for name in names if name not in changeable)


def _frozen(name: str) -> Rule:
    return Rule(
        cel=(f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})"),
        holds=None,
        message=f"spec.{name} cannot change once the job exists: delete it and create another",
        at=f".{name}",
        reason="FieldValueForbidden",
    )
