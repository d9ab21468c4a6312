"""Handwritten digits: a small convolutional network learns to read 8 by 8 images. A recipe to copy."""

from __future__ import annotations

import gzip
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from muster_worker.train import Config, ConfigurationError, Recipe, setting

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch.distributed.tensor.parallel import ParallelStyle


@dataclass(frozen=True, kw_only=True)
class DigitsConfig(Config):
    epochs: int = setting(20, minimum=1)
    channels: int = setting(32, minimum=1)
    """Of the first convolution; the second has twice as many."""

    validation_fraction: float = setting(0.2, minimum=0.01, maximum=0.9)
    """Share of the images that is kept from training."""


class Network(nn.Module):
    """Images (N, 1, 8, 8), brightness 0 to 1, to the logits of the ten digits (N, 10)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, channels, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(0.25), nn.Linear(2 * channels * 16, 10))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images))
        return logits


class Digits(Recipe):
    config_type = DigitsConfig
    learning_rate: ClassVar[float] = 0.05

    def model(self) -> nn.Module:
        return Network(self.config.channels)

    def datasets(self) -> tuple[TensorDataset, TensorDataset]:
        images, digits = load_digits()
        order = torch.randperm(len(images))
        validation = round(len(images) * self.config.validation_fraction)
        held_out, used = order[:validation], order[validation:]
        return TensorDataset(images[used], digits[used]), TensorDataset(images[held_out], digits[held_out])

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output, target)

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"accuracy": (output.argmax(dim=1) == target).float().mean()}

    def optimizer(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> Any:
        return torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9)

    def tensor_plan(self, model: nn.Module) -> dict[str, ParallelStyle]:
        """What the classifier makes of the features is divided; torch has no style for convolutions."""
        del model
        from torch.distributed.tensor import Replicate  # noqa: PLC0415 - takes a second, which training does not pay
        from torch.distributed.tensor.parallel import RowwiseParallel  # noqa: PLC0415

        return {"classifier.2": RowwiseParallel(input_layouts=Replicate())}

    def pipeline_layers(self, model: nn.Module) -> list[nn.Module]:
        return [*model.features, *model.classifier]


def load_digits() -> tuple[Tensor, Tensor]:
    """All 1,797 images (1797, 1, 8, 8) in float32 from 0 to 1, and their digits (1797,) in int64.

    They ship with scikit-learn, whose import takes a second that every start of a rank would pay: so its
    file is read without it.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise ConfigurationError("the recipe digits reads the images that ship with scikit-learn: install scikit-learn")
    text = gzip.decompress((Path(package.origin).parent / "datasets/data/digits.csv.gz").read_bytes()).decode()
    table = np.array(text.replace("\n", ",").rstrip(",").split(","), dtype=np.float32).reshape(-1, 65)
    images = torch.from_numpy(table[:, :64] / 16).reshape(-1, 1, 8, 8)
    return images, torch.from_numpy(table[:, 64].astype(np.int64))
