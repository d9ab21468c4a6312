"""From models to structural schemas: what a CRD cannot say is an error, never dropped."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, StringConstraints

from muster.api.base import Bool, Int, Model
from muster.api.lists import ATOMIC, ListType
from muster.api.rules import Rule
from muster.api.structural import NotStructuralError, structural


class Item(Model):
    """One thing."""

    name: str
    """What it is called."""
    size: Annotated[Int, Field(ge=1, le=9)] = 2


class Whole(Model):
    """All things.

    Told over
    two lines.
    """

    rules = (
        Rule(cel="has(self.first)", holds=None, message="no first: write it", at=".first", found="self.first.name"),
    )

    first: Item | None = None
    """The first."""
    second: Item = Item(name="x")
    kind: Literal["a", "b"] = "a"
    only: Literal["this"] | None = None
    on: Bool = True
    things: Annotated[tuple[Item, ...], Field(max_length=3), ListType(keys=("name",))] = ()
    words: Annotated[tuple[str, ...], ATOMIC] | None = None
    sizes: Annotated[dict[str, Int], Field(max_length=4)] = Field(default_factory=dict)
    anything: dict[str, Any] = Field(default_factory=dict)


def properties() -> dict[str, Any]:
    return dict(structural(Whole)["properties"])


def test_references_and_nulls_are_gone_and_both_descriptions_are_kept():
    assert properties()["first"] == {
        "description": "The first.\n\nOne thing.",
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "description": "What it is called."},
            "size": {"type": "integer", "minimum": 1, "maximum": 9, "default": 2, "description": "Default: 2."},
        },
    }


def test_lines_of_a_paragraph_become_one():
    assert structural(Whole)["description"] == "All things.\n\nTold over two lines."


def test_scalars_keep_their_defaults_and_a_block_is_made_for_those_inside_it():
    assert properties()["kind"]["default"] == "a"
    assert properties()["on"]["default"] is True
    assert properties()["second"]["default"] == {}


@pytest.mark.parametrize("empty", ["first", "only", "things", "words", "sizes", "anything"])
def test_what_is_empty_by_default_is_left_absent(empty: str):
    assert "default" not in properties()[empty]


def test_a_single_choice_is_an_enumeration():
    assert properties()["only"] == {"type": "string", "enum": ["this"]}


def test_lists_say_how_they_are_merged():
    assert properties()["things"]["x-kubernetes-list-type"] == "map"
    assert properties()["things"]["x-kubernetes-list-map-keys"] == ["name"]
    assert properties()["things"]["maxItems"] == 3
    assert properties()["words"]["x-kubernetes-list-type"] == "atomic"


def test_maps_are_typed_and_bounded_and_free_objects_keep_everything():
    assert properties()["sizes"] == {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 4}
    assert properties()["anything"] == {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def test_rules_tell_what_was_found():
    assert structural(Whole)["x-kubernetes-validations"] == [
        {
            "rule": "has(self.first)",
            "message": "no first: write it",
            "messageExpression": '"no first: write it, found " + self.first.name',
            "fieldPath": ".first",
            "reason": "FieldValueInvalid",
        }
    ]


class Exclusive(Model):
    number: Annotated[float, Field(gt=0)]


class Patterned(Model):
    text: Annotated[str, StringConstraints(pattern="^a$")]


class Union(Model):
    either: int | bool


class Looping(Model):
    inner: Looping | None = None


class Unmerged(Model):
    words: tuple[str, ...] = ()


class Pair(Model):
    pair: Annotated[tuple[int, str], ATOMIC]


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (Exclusive, "Exclusive.number: no rule for the keyword exclusiveMinimum = 0"),
        (Patterned, "Patterned.text: no rule for the keyword pattern = '\\^a\\$'"),
        (Union, "Union.either: a union of 2 types"),
        (Looping, "Looping contains itself"),
        (Unmerged, "Unmerged.words: a list without ListType"),
        (Pair, "Pair.pair: no rule for the keyword prefixItems"),
    ],
)
def test_what_is_not_known_is_an_error(model: type[Model], complaint: str):
    with pytest.raises(NotStructuralError, match=complaint):
        structural(model)
