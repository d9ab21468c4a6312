"""What is trained: recipes that time themselves, in the same place whoever runs their steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset

from muster_worker.recipes.digits import Digits, DigitsConfig
from muster_worker.train import Config, Recipe, setting
from tests.bench.throughput.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Iterable

LONG = 200_000
"""Samples of one epoch, so that no evaluation comes in between; whoever has been timed is ended."""


@dataclass(frozen=True, kw_only=True)
class TimedDigitsConfig(DigitsConfig):
    epochs: int = setting(1, minimum=1)
    warm_up: int = setting(50, minimum=1)
    steps: int = setting(1600, minimum=1)


class TimedDigits(Digits):
    """The recipe digits, timed."""

    config_type = TimedDigitsConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._clock = Clock(config.warm_up, config.steps)

    def datasets(self) -> tuple[Dataset[Any], TensorDataset]:
        training, validation = super().datasets()
        return Repeated(training), validation

    def optimizer(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> Any:
        return self._clock.watch(super().optimizer(parameters, learning_rate))


@dataclass(frozen=True, kw_only=True)
class TimedPerceptronConfig(Config):
    epochs: int = setting(1, minimum=1)
    warm_up: int = setting(5, minimum=1)
    steps: int = setting(40, minimum=1)
    width: int = setting(2048, minimum=1)


class TimedPerceptron(Recipe):
    """Four layers with 10,020,874 parameters, on noise: 784 numbers of one of ten classes."""

    config_type = TimedPerceptronConfig
    learning_rate: ClassVar[float] = 0.01

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._clock = Clock(config.warm_up, config.steps)

    def model(self) -> nn.Module:
        width = self.config.width
        return nn.Sequential(
            *(nn.Linear(784, width), nn.ReLU()),
            *(nn.Linear(width, width), nn.ReLU()),
            *(nn.Linear(width, width), nn.ReLU()),
            nn.Linear(width, 10),
        )

    def datasets(self) -> tuple[Dataset[Any], None]:
        some = TensorDataset(torch.randn(1024, 784), torch.randint(10, (1024,)))
        return Repeated(some), None

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output, target)

    def optimizer(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> Any:
        return self._clock.watch(torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9))


class Repeated(Dataset[Any]):
    """The samples of another, again and again."""

    def __init__(self, samples: Any) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return LONG

    def __getitem__(self, index: int) -> Any:
        return self._samples[index % len(self._samples)]
