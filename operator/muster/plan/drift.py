"""Whether an object on the cluster still has everything that we want it to have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.plan.model import Manifest


def is_outdated(wanted: Manifest, among: Iterable[Manifest]) -> bool:
    """Return whether the object is not among these, or applying it would change it."""
    return differs(wanted, found(wanted, among))


def found(wanted: Manifest, among: Iterable[Manifest]) -> Manifest | None:
    """Return what of these bears its name."""
    there = next((one for one in among if one["metadata"]["name"] == wanted["metadata"]["name"]), None)
    # A LIST leaves apiVersion and kind out of its items.
    return None if there is None else {**{name: wanted[name] for name in ("apiVersion", "kind")}, **there}


def differs(wanted: Any, found: Any) -> bool:
    """Return whether applying `wanted` would change `found`.

    What the API server or others added is no difference: only what is wanted is looked at. Lists are compared
    item by item, because the lists of the objects that Muster applies have no other owner.
    """
    if isinstance(wanted, dict):
        return not isinstance(found, dict) or any(differs(value, found.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list):
        if not isinstance(found, list) or len(wanted) != len(found):
            return True
        return any(differs(left, right) for left, right in zip(wanted, found, strict=True))
    return bool(wanted != found)
