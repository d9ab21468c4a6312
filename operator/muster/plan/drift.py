"""Whether an object on the cluster still has everything that we want it to have."""

from __future__ import annotations

from typing import Any


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
