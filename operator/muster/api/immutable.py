"""What of a spec stays as it was made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.api.rules import Rule, quoted

if TYPE_CHECKING:
    from collections.abc import Container

    from muster.api.base import Model

_CANNOT = "cannot change once the job exists: delete it and create another"


def frozen_fields(model: type[Model], changeable: Container[str]) -> Rule:
    """Return a rule on `spec` by which none of the model's other fields may change after creation.

    One for all, which begins with the whole: the API server judges it at every write of a status too, and to look at
    each field then was a tenth of what such a write costs.
    """
    names = [str(field.alias) for field in model.model_fields.values()]
    frozen = [name for name in names if name not in changeable]
    free = [name for name in names if name in changeable]
    first = " : ".join(f"!({_same(name)}) ? {quoted(name)}" for name in frozen)
    return Rule(
        cel=f"self == oldSelf || {' && '.join(map(_same, frozen))}",
        holds=None,
        message=f"of this only {', '.join(free)} can change once the job exists",
        message_in_cel=f'"spec." + ({first} : "") + {quoted(" " + _CANNOT)}',
        reason="FieldValueForbidden",
    )


def _same(name: str) -> str:
    return f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})"
