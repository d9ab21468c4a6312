"""The fields of the API that this version does not honour: refused, never ignored.

The one source for the CRD's CEL rules and for the models. A field leaves the table when what it says is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic.alias_generators import to_snake

from muster.api.rules import Rule, quoted


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A field below `spec`, and the values of it that ask for nothing that this version cannot do."""

    path: str
    allowed: tuple[str, ...] = ()

    def rule(self) -> Rule:
        """Return the refusal as a rule on `spec`."""
        parts = self.path.split(".")
        absent = [f"!has(self.{'.'.join(parts[: depth + 1])})" for depth in range(len(parts))]
        harmless = [f"self.{self.path} in [{', '.join(quoted(value) for value in self.allowed)}]"]
        return Rule(
            cel=" || ".join(absent + (harmless if self.allowed else [])),
            holds=self._is_harmless,
            message=self._message(),
            found=f"self.{self.path}" if self.allowed else "",
            at=f".{self.path}",
            reason="FieldValueForbidden",
        )

    def _message(self) -> str:
        if not self.allowed:
            return f"spec.{self.path} is not supported by this version of Muster yet: leave it out"
        choice = " or ".join(self.allowed)
        return f"this value is not supported by this version of Muster yet: write {choice}, or leave it out"

    def _is_harmless(self, spec: Any) -> bool:
        value = spec
        for part in self.path.split("."):
            value = getattr(value, to_snake(part))
            if value is None:
                return True
        return value in self.allowed


TRAINING_JOB = (
    Unsupported("strategy.type", allowed=("ddp", "fsdp", "tensor", "pipeline")),
    Unsupported("strategy.parameterServers"),
)
