"""A trained model, compressed step by step, each step measured and held to the accuracy that it may cost."""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from muster_worker.compress.manifest import parse_steps
from muster_worker.compress.measure import measure
from muster_worker.compress.quantize import Quantize
from muster_worker.train.errors import ConfigurationError, TrainingError
from muster_worker.train.evaluation import validation_name
from muster_worker.train.export import count_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from muster_worker.compress.measure import Measurement
    from muster_worker.compress.technique import Technique
    from muster_worker.train.export import Trained

log = logging.getLogger(__name__)

ACCURACY = validation_name("accuracy")
_ROUNDING = 1e-6
"""Accuracies are made of means in float32: a drop that is larger by less is as large as was allowed."""


class AccuracyError(TrainingError):
    """A step cost more accuracy than the job allows: so it would when tried again."""

    exit_code = ConfigurationError.exit_code


@dataclass(frozen=True)
class Compressed:
    """A model that has been compressed, and what was measured meanwhile."""

    model: nn.Module
    reports: tuple[dict[str, Any], ...]
    """One for each step: `step` as the manifest writes it; `bytesBefore` and `bytesAfter` of the weights file; likewise
    `memory…` in bytes, `latency…` of one sample in seconds, `accuracy…`, None where the recipe measures none,
    or what is no number."""

    metrics: dict[str, float]
    """By the recipe's evaluation, after the last step."""


def apply(
    model: nn.Module,
    steps: list[dict[str, Any]],
    examples: Sequence[Tensor],
    evaluate: Callable[[nn.Module], dict[str, float]],
) -> Compressed:
    """A compressed copy of `model`, on the CPU; `model` stays as it is.

    `steps`: `spec.compression`. `examples`: the model's inputs, each of shape (N, …), on the CPU. `evaluate`: gives the
    metrics of a model on the CPU, for instance by `evaluate_alone`.

    Raises ConfigurationError where the steps are wrong or do not fit the model, and AccuracyError where one of them
    costs more accuracy than its `maxAccuracyDrop`.
    """
    techniques = parse_steps(steps)
    model = copy.deepcopy(model).cpu().eval()
    before = measure(model, examples, evaluate)
    for field, technique in techniques.items():
        _check_measurable(field, technique, before)
    reports = []
    for step, (field, technique) in zip(steps, techniques.items(), strict=True):
        if not technique.compress(model):
            raise ConfigurationError(f"{field}: the model has nothing to change, wanted {technique.target}")
        after = measure(model, examples, evaluate)
        _check_accuracy(field, technique, before, after)
        reports.append(_report(step, before, after))
        log.info("%s: %d bytes instead of %d", field, after.bytes, before.bytes)
        before = after
    return Compressed(model, tuple(reports), before.metrics)


def compress(
    trained: Trained, steps: list[dict[str, Any]], evaluate: Callable[[nn.Module], dict[str, float]]
) -> Trained:
    """What is exported instead of `trained`; raises what `apply` raises. Its origin has the steps as `compression`."""
    compressed = apply(trained.model, steps, trained.examples, evaluate)
    return replace(
        trained,
        model=compressed.model,
        metrics=trained.metrics | compressed.metrics,
        origin=trained.origin | {"compression": steps},
        compression=compressed.reports,
        parameters=count_parameters(trained.model),
    )


def prepare(model: nn.Module, steps: list[dict[str, Any]]) -> None:
    """Gives `model` the names and types of weights that these steps end with, so that it can load such a state dict."""
    for technique in parse_steps(steps).values():
        if isinstance(technique, Quantize):
            technique.compress(model)


def _check_measurable(field: str, technique: Technique, measured: Measurement) -> None:
    if technique.max_accuracy_drop is not None and ACCURACY not in measured.metrics:
        raise ConfigurationError(
            f"{field}.maxAccuracyDrop: found {technique.max_accuracy_drop:g}, wanted none, or a recipe with validation"
            " samples whose metrics have accuracy"
        )


def _check_accuracy(field: str, technique: Technique, before: Measurement, after: Measurement) -> None:
    allowed = technique.max_accuracy_drop
    if allowed is None:
        return
    drop = before.metrics[ACCURACY] - after.metrics[ACCURACY]
    if not drop <= allowed + _ROUNDING:  # so that one that is no number is none that is allowed
        raise AccuracyError(
            f"{field}.maxAccuracyDrop: the accuracy fell by {drop:.4g}, from {before.metrics[ACCURACY]:.4g} to"
            f" {after.metrics[ACCURACY]:.4g}, wanted at most {allowed:g}: allow more, or compress less"
        )


def _report(step: dict[str, Any], before: Measurement, after: Measurement) -> dict[str, Any]:
    report: dict[str, Any] = {"step": step}
    for suffix, measured in (("Before", before), ("After", after)):
        report[f"bytes{suffix}"] = measured.bytes
        report[f"memory{suffix}"] = measured.memory
        report[f"latency{suffix}"] = measured.latency
        accuracy = measured.metrics.get(ACCURACY, math.nan)
        report[f"accuracy{suffix}"] = accuracy if math.isfinite(accuracy) else None
    return report
