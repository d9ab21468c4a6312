"""Steps that make a trained model smaller."""

from typing import Annotated, Literal

from pydantic import Field

from muster.api.base import Int, Model, Reported
from muster.api.lists import ATOMIC
from muster.api.names import Fraction, PositiveDecimal
from muster.api.rules import Rule

EIGHT_OR_FOUR = Rule(cel="self == 8 || self == 4", holds=lambda bits: bits in (8, 4), message="write 8 or 4")


class Step(Model):
    """What every step can be told."""

    max_accuracy_drop: Fraction | None = None
    """How much validation accuracy, from 0 to 1, the step may cost, in quotes, for example "0.01".

    A step that costs more fails the job, or is not served. Absent: it may cost as much as it does.
    """


class Clip(Step):
    """Cut every weight to the interval from -epsilon to epsilon."""

    rules = (
        Rule(
            cel="has(self.epsilon) != has(self.standardDeviations)",
            holds=lambda clip: (clip.epsilon is None) != (clip.standard_deviations is None),
            message="write exactly one of epsilon and standardDeviations",
        ),
    )

    epsilon: PositiveDecimal | None = None
    """The largest magnitude left, in quotes, for example "3.0"."""
    standard_deviations: PositiveDecimal | None = None
    """The same, as a multiple of the standard deviation of each layer's weights, in quotes, for example "3"."""


class Prune(Step):
    """Make the smallest weights of each layer zero. By itself this makes no file smaller."""

    fraction: Fraction
    """Which part of them, in quotes, for example "0.5"."""


class Quantize(Step):
    """Store the weights in fewer bits. Nothing comes after it but another quantize, for what it has left."""

    rules = (
        Rule(
            cel="self.mode != 'dynamic' || self.bits == 8",
            holds=lambda quantize: quantize.mode != "dynamic" or quantize.bits == 8,
            message="dynamic computes with integers of 8 bits: write 8, or mode weightOnly",
            at=".bits",
        ),
    )

    bits: Annotated[Int, Field(ge=4, le=8), EIGHT_OR_FOUR]
    """Bits a weight: 8 or 4."""
    mode: Literal["weightOnly", "dynamic"] = "weightOnly"
    """weightOnly: weights are small on disk and in memory, and made floating point numbers when a layer computes.

    dynamic: linear layers compute with integers of 8 bits, which is faster on CPUs; others stay as they are.
    """


def _is_one(step: "CompressionStep") -> bool:
    return sum(kind is not None for kind in (step.clip, step.prune, step.quantize)) == 1


class CompressionStep(Model):
    """One step. Each reports bytes and metrics before and after."""

    rules = (
        Rule(
            cel="[has(self.clip), has(self.prune), has(self.quantize)].exists_one(given, given)",
            holds=_is_one,
            message="write exactly one of clip, prune and quantize in each step",
        ),
    )

    clip: Clip | None = None
    prune: Prune | None = None
    quantize: Quantize | None = None


Compression = Annotated[tuple[CompressionStep, ...], Field(max_length=8), ATOMIC]


class CompressionResult(Reported):
    """What one compression step did."""

    step: str
    """clip, prune or quantize."""
    bytes_before: Int | None = None
    """Size of the file of weights before."""
    bytes_after: Int | None = None
    """Size of the file of weights after."""
    memory_before: Int | None = None
    """Bytes that the weights took in memory before."""
    memory_after: Int | None = None
    """Bytes that they take in memory after."""
    latency_milliseconds_before: str | None = None
    """How long one sample took before, on a CPU."""
    latency_milliseconds_after: str | None = None
    """How long one sample takes after."""
    accuracy_before: str | None = None
    """Validation accuracy before."""
    accuracy_after: str | None = None
    """Validation accuracy after."""
