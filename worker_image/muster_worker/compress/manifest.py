"""`spec.compression` as the manifest writes it: a list of steps, each one technique with its settings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from muster_worker.compress.clip import Clip
from muster_worker.compress.prune import Prune
from muster_worker.compress.quantize import Quantize
from muster_worker.train.config import parse_config
from muster_worker.train.errors import ConfigurationError

if TYPE_CHECKING:
    from muster_worker.compress.technique import Technique

FIELD = "spec.compression"
TECHNIQUES: dict[str, type[Technique]] = {"clip": Clip, "prune": Prune, "quantize": Quantize}


def parse_steps(steps: Any) -> dict[str, Technique]:
    """The techniques in their order, by the fields that they are written in, such as `spec.compression[0].clip`.

    Raises ConfigurationError naming the first step that is wrong, and every wrong field in it.
    """
    if not isinstance(steps, list):
        raise ConfigurationError(f"{FIELD}: found {json.dumps(steps)}, wanted a list of steps")
    techniques: dict[str, Technique] = {}
    for number, step in enumerate(steps):
        name, settings = _named(f"{FIELD}[{number}]", step)
        field = f"{FIELD}[{number}].{name}"
        if not isinstance(settings, dict):
            raise ConfigurationError(f"{field}: found {json.dumps(settings)}, wanted an object")
        technique = parse_config(TECHNIQUES[name], settings, field)
        if technique.fault:
            raise ConfigurationError(field + technique.fault)
        if name != "quantize" and any(isinstance(earlier, Quantize) for earlier in techniques.values()):
            raise ConfigurationError(f"{field}: found after quantize, wanted before it: integers are not changed again")
        techniques[field] = technique
    return techniques


def _named(field: str, step: Any) -> tuple[str, Any]:
    """The one technique of the step, and its settings."""
    wanted = f"an object with one of {', '.join(TECHNIQUES)}"
    if not isinstance(step, dict) or len(step) != 1:
        raise ConfigurationError(f"{field}: found {json.dumps(step)}, wanted {wanted}")
    ((name, settings),) = step.items()
    if name not in TECHNIQUES:
        raise ConfigurationError(f"{field}.{name}: unknown technique, wanted {wanted}")
    return name, settings
