"""How lists and maps are merged by server-side apply, and that what must be unique in them is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic.alias_generators import to_snake
from pydantic_core import PydanticCustomError, core_schema

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler


@dataclass(frozen=True, slots=True)
class ListType:
    """How the API server merges a list: as a whole (atomic), by the items' keys (map), or as a set."""

    keys: tuple[str, ...] = ()
    unique: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        kind = "map" if self.keys else "set" if self.unique else "atomic"
        keys = {"x-kubernetes-list-map-keys": list(self.keys)} if self.keys else {}
        return {**handler(schema), "x-kubernetes-list-type": kind, **keys}

    def _check(self, items: Any) -> Any:
        if self.keys:
            identities = [tuple(getattr(item, to_snake(key)) for key in self.keys) for item in items]
        elif self.unique:
            identities = list(items)
        else:
            return items
        twice = next((identity for identity in identities if identities.count(identity) > 1), None)
        if twice is not None:
            shown = ", ".join(map(str, twice)) if self.keys else twice
            raise PydanticCustomError("twice", "has {shown} twice: write it once", {"shown": shown})
        return items


ATOMIC = ListType()
