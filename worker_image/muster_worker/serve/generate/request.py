"""A request for text, whichever way it came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muster_worker.serve.generate.parameters import Parameters


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """`id` is the client's, and its answers have it; it may be empty."""

    id: str
    text: str
    parameters: Parameters
