"""One rule, said twice side by side: as CEL for the API server and as Python for the models.

A rule stands on a model (`Model.rules`) or on a scalar (`Annotated[str, Rule(...)]`). The property test feeds the
same specs to the API server and to the models, so that the two halves of a rule cannot drift apart.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic.alias_generators import to_snake
from pydantic_core import PydanticCustomError, core_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler

Reason = Literal["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired"]

VALIDATIONS = "x-kubernetes-validations"
BROKEN = "broken_rule"  # the type of the pydantic error; its context has `broken`: fields and sentences


@dataclass(frozen=True, slots=True)
class Rule:
    """What must hold of a value, and the sentence for whoever breaks it.

    - `cel`: the condition, in terms of `self` (and `oldSelf`: the rule is then about changes).
    - `holds`: the same condition in Python; None for rules about changes, which only the API server can judge.
    - `message`: one sentence that says what to write; the field's path is told before it by whoever shows it.
    - `found`: the field below `self` ("self" for the value itself) whose value is told after the message.
    - `found_in_cel`: `found` where that is no string: the budget of CEL has no room for `string(...)`, whose result it
      takes for endless.
    - `message_in_cel`: the message as a CEL expression, where it tells more than `message`.
    - `at`: the field below `self` that is to blame, as in `.failurePolicy.maxRestarts`.
    """

    cel: str
    holds: Callable[[Any], bool] | None
    message: str
    found: str = ""
    found_in_cel: str = ""
    message_in_cel: str = ""
    at: str = ""
    reason: Reason = "FieldValueInvalid"

    def schema(self) -> dict[str, str]:
        """Return the rule as an item of `x-kubernetes-validations`."""
        rule = {"rule": self.cel, "message": self.message}
        if self.found:
            rule["messageExpression"] = f"{quoted(self.message + ', found ')} + {self.found_in_cel or self.found}"
        if self.message_in_cel:
            rule["messageExpression"] = self.message_in_cel
        if self.at:
            rule["fieldPath"] = self.at
        return rule | {"reason": self.reason}

    def complaint(self, value: Any) -> str | None:
        """Return the sentence about a value that breaks the rule, None for one that keeps it."""
        if self.holds is None or self.holds(value):
            return None
        return f"{self.message}, found {_at(value, self.found)}" if self.found else self.message

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def check(value: Any) -> Any:
            enforce((self,), value)
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        produced = handler(schema)
        return {**produced, VALIDATIONS: [*produced.get(VALIDATIONS, []), self.schema()]}


def enforce(rules: Iterable[Rule], value: Any) -> None:
    """Raise one error that tells of all rules that the value breaks, each with the field to blame below it."""
    complaints = [(rule.at, rule.complaint(value)) for rule in rules]
    broken = [(at, message) for at, message in complaints if message is not None]
    if broken:
        text = "; ".join(message for _, message in broken)
        raise PydanticCustomError(BROKEN, "{text}", {"text": text, "broken": broken})


def quoted(text: str) -> str:
    """Return the text as a CEL string literal: CEL reads JSON's escapes."""
    return json.dumps(text, ensure_ascii=False)


def product_in_cel(*fields: str) -> str:
    """Return in CEL the product of these fields, where one that is absent counts 1."""
    return " * ".join(f"(has({field}) ? {field} : 1)" for field in fields).join("()")


def _at(value: Any, path: str) -> Any:
    """Return what `self.aField.another` is of a value."""
    for name in path.split(".")[1:]:
        value = getattr(value, to_snake(name))
    return value
