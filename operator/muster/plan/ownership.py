"""Whose something is: its owner's deletion is its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muster.api import ModelDeployment, TrainingJob


def owner(resource: TrainingJob | ModelDeployment) -> dict[str, Any]:
    """Return the owner reference to put into what is made for the resource."""
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "name": resource.metadata.name,
        "uid": resource.metadata.uid,
        "controller": True,
    }
