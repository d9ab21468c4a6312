"""A compressed copy of a published model, made once for all who serve it."""

from __future__ import annotations

import logging
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from muster_worker.compress.apply import compress
from muster_worker.serve.model import intact, recipe_and_model
from muster_worker.train.errors import ConfigurationError
from muster_worker.train.evaluation import evaluate_alone
from muster_worker.train.export import Trained, export_model
from muster_worker.train.model_directory import check_replaceable, example, load_model, published_model
from muster_worker.train.precision import Precision
from muster_worker.train.trainer import built

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    from muster_worker.train.model_directory import LoadedModel, Published
    from muster_worker.train.recipe import Recipe

log = logging.getLogger(__name__)

_CPU = torch.device("cpu")
_PRECISION = Precision(torch.float32, _CPU.type)


def compress_published(source: Path, directory: Path, steps: list[dict[str, Any]], sha256: str | None) -> Published:
    """Writes the model in `source`, compressed by `steps`, to `directory`; at once where that is there already.

    `steps`: `spec.compression`. `sha256`: what the checksum of `source` must be; None: anything.

    Raises ConfigurationError where the steps or the model are wrong for that, or something is in `directory` that is no
    model, or is `source`; AccuracyError where a step costs more accuracy than its `maxAccuracyDrop`; and StorageError.
    """
    directory = directory.resolve()  # "." has no name
    if directory == source.resolve():
        raise ConfigurationError(f"{directory}: found the model itself, wanted another directory for its copy")
    check_replaceable(directory)
    model, _, found = intact(source, sha256)
    before = model.description["origin"]
    # What the job that trained it did is to be done to a model that takes these weights as well.
    origin = before | {"compression": [*before.get("compression", []), *steps], "compressedFrom": found}
    there = published_model(directory, origin)
    if there is not None:
        log.info("%s is there already", directory)
        return there
    recipe, module = recipe_and_model(model)
    compressed = compress(_trained(model, module), steps, _evaluation(recipe))
    whole = replace(compressed, origin=origin, parameters=model.description["parameters"])
    return export_model(directory, whole, uuid.uuid4().hex)


def _trained(model: LoadedModel, module: nn.Module) -> Trained:
    """As the job had it that published it."""
    samples = example(model.directory)
    assert samples is not None, "every recipe's model has some"
    said = model.description
    examples = tuple(samples[0].values())
    return Trained(module, examples, said["metrics"], said["origin"], generation=said.get("generation"))


def _evaluation(recipe: Recipe) -> Callable[[nn.Module], dict[str, float]]:
    """By the samples that the job had: those of some recipes are drawn at random."""
    _, _, validation = built(recipe, _CPU)
    return lambda module: {} if validation is None else evaluate_alone(recipe, module, validation, _PRECISION, _CPU)


def result(directory: Path, published: Published) -> dict[str, Any]:
    """What is told of it: its checksum and size, and what each step cost and gained."""
    reports = load_model(directory).description["compression"]
    return {"sha256": published.sha256, "bytes": published.bytes, "compression": reports}
