"""What every technique of compression is: settings from the manifest, and a change of a model's weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from muster_worker.train.config import setting

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Technique(ABC):
    """One entry of `spec.compression`. Its fields are the settings, in camelCase there."""

    max_accuracy_drop: float | None = setting(None, minimum=0.0, maximum=1.0)
    """How much lower the accuracy, from 0 to 1, may be than before this step. None: anything is taken."""

    @property
    def fault(self) -> str | None:
        """What is wrong with the settings together, if anything: what follows the name of the field in an error."""
        return None

    @property
    def target(self) -> str:
        """Which weights it changes, for the error where a model has none."""
        return "floating point weights of two or more dimensions"

    @abstractmethod
    def compress(self, model: nn.Module) -> int:
        """Changes `model` in place; gives the number of weights that it changed."""
