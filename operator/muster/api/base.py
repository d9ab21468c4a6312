"""The ground of all models: names as in the manifest, no change after parsing, nothing unknown, null is absence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Strict, model_validator
from pydantic.alias_generators import to_camel

from muster.api.rules import VALIDATIONS, Rule, enforce

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from pydantic import GetJsonSchemaHandler
    from pydantic_core import core_schema


def _whole(value: Any) -> Any:
    """JSON has one type of number: 3.0 is an integer to the API server, "3" and true are not."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _without_nulls(value: Any) -> Any:
    return {name: item for name, item in value.items() if item is not None} if isinstance(value, dict) else value


# The API server removes nulls before it fills in defaults: from maps, and from fields, which the models do themselves.
WITHOUT_NULLS = BeforeValidator(_without_nulls)

Int = Annotated[int, Strict(), BeforeValidator(_whole)]
PlainInt = Annotated[int, Strict()]
"""Of fields that rules and the scale subresource read: these do not take 3.0 for a number, as schemas do."""
Bool = Annotated[bool, Strict()]


class Model(BaseModel):
    """A part of a manifest. The docstrings of classes and attributes are the descriptions in the CRD."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_by_alias=True,
        validate_by_name=False,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    def manifest(self) -> dict[str, Any]:
        """Return this part as a manifest writes it: camelCase, JSON types, absent fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        """A null in a field that does not exist is as wrong as any other value there."""
        if not isinstance(value, dict):
            return value
        known = {field.alias for field in cls.model_fields.values()}
        return {name: item for name, item in value.items() if item is not None or name not in known}

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        enforce(self.rules, self)
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        produced = handler.resolve_ref_schema(handler(schema))
        if cls.rules:
            produced[VALIDATIONS] = [rule.schema() for rule in cls.rules]
        return produced


def unreported(resource: Mapping[str, Any]) -> dict[str, Any]:
    """Return the resource without its status, in which another version may have written what this one does not know."""
    return {name: part for name, part in resource.items() if name != "status"}


class Reported(Model):
    """A part of the status: made here by field name, read leniently, for a newer operator may have written more."""

    model_config = ConfigDict(extra="ignore", validate_by_name=True)

    def manifest(self) -> dict[str, Any]:
        """Return this part as a manifest writes it; what is empty or not known is left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
