"""Steps that make a trained model smaller."""

from typing import Annotated

from pydantic import Field, StringConstraints

from muster.api.base import Int, Model
from muster.api.lists import ATOMIC
from muster.api.names import DecimalText
from muster.api.rules import Rule


class Clip(Model):
    """Cut every weight to the interval from -epsilon to epsilon."""

    epsilon: DecimalText
    """The largest magnitude left, in quotes, for example "3.0"."""


class Quantize(Model):
    """Store the weights in fewer bits."""

    bits: Annotated[Int, Field(ge=4, le=8)]
    """Bits a weight: 8 or 4."""
    max_accuracy_drop: DecimalText | None = None
    """How much validation accuracy may be lost before the step fails, in quotes, for example "0.01"."""


class Distill(Model):
    """Train a small model on what the large one answers."""

    student: Annotated[str, StringConstraints(min_length=1, max_length=253)]
    """The recipe of the small model, for example `muster_worker.recipes.digits:Small`."""
    temperature: DecimalText | None = None
    """How far the teacher's answers are softened, in quotes, for example "4"."""
    alpha: DecimalText | None = None
    """The weight of the teacher's answers against the labels, in quotes, from "0" to "1"."""
    epochs: Annotated[Int, Field(ge=1, le=1_000_000)] | None = None
    """How long the student is trained."""


def _is_one(step: "CompressionStep") -> bool:
    return sum(kind is not None for kind in (step.clip, step.quantize, step.distill)) == 1


class CompressionStep(Model):
    """One step. Each reports bytes and metrics before and after."""

    rules = (
        Rule(
            cel="[has(self.clip), has(self.quantize), has(self.distill)].exists_one(given, given)",
            holds=_is_one,
            message="write exactly one of clip, quantize and distill in each step",
        ),
    )

    clip: Clip | None = None
    quantize: Quantize | None = None
    distill: Distill | None = None


Compression = Annotated[tuple[CompressionStep, ...], Field(max_length=8), ATOMIC]
