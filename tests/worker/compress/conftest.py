from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch

from muster_worker.serve.model import recipe_and_model
from muster_worker.train.evaluation import evaluate_alone
from muster_worker.train.export import Trained
from muster_worker.train.model_directory import example, load_model
from muster_worker.train.precision import Precision
from muster_worker.train.trainer import built
from tests.worker.train import ranks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Reader:
    """A model that has learned to read digits, as it was published."""

    directory: Path
    trained: Trained
    evaluate: Callable[[Any], dict[str, float]]


@pytest.fixture(scope="session")
def reader(tmp_path_factory):
    """Digits, trained for ten epochs by a rank, as `muster-worker train` does."""
    storage = tmp_path_factory.mktemp("digits") / "storage"
    group = ranks.start(storage, 1, recipe="muster_worker.recipes.digits:Digits", config={"epochs": 10})
    try:
        assert group.wait() == [0], group.output()
    finally:
        group.stop()
    directory = storage / "model"
    loaded = load_model(directory)
    recipe, model = recipe_and_model(loaded)
    _, _, validation = built(recipe, CPU)
    precision = Precision(torch.float32, "cpu")
    inputs, _ = example(directory)
    description = loaded.description
    trained = Trained(model, tuple(inputs.values()), description["metrics"], description["origin"])
    return Reader(directory, trained, lambda module: evaluate_alone(recipe, module, validation, precision, CPU))
