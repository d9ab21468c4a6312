"""What is trained: recipes that time themselves, in the same place whoever runs their steps."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset

from muster_worker.recipes.digits import Digits, DigitsConfig
from muster_worker.train import Config, Recipe, setting

if TYPE_CHECKING:
    from collections.abc import Iterable

TIMES = "BENCH_TIMES"
"""The variable that names the file for what rank 0's clock found."""


class Clock:
    """Times `steps` steps after `warm_up`, from one computation of a training loss to another."""

    def __init__(self, warm_up: int, steps: int) -> None:
        self._warm_up, self._steps = warm_up, steps
        self._count = 0
        self._begun = 0.0

    @property
    def needed(self) -> int:
        """Steps that there must be, the last ones for whoever does something else at the end."""
        return self._warm_up + self._steps + 2

    def tick(self) -> None:
        if not torch.is_grad_enabled():
            return  # an evaluation
        self._count += 1
        if self._count == self._warm_up:
            self._begun = time.perf_counter()
        elif self._count == self._warm_up + self._steps and os.environ["RANK"] == "0":
            found = {"steps": self._steps, "seconds": time.perf_counter() - self._begun}
            Path(os.environ[TIMES]).write_text(json.dumps(found))


@dataclass(frozen=True, kw_only=True)
class TimedDigitsConfig(DigitsConfig):
    epochs: int = setting(1, minimum=1)
    warm_up: int = setting(50, minimum=1)
    steps: int = setting(400, minimum=1)


class TimedDigits(Digits):
    """The recipe digits, its images so often in one epoch that no evaluation comes in between."""

    config_type = TimedDigitsConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._clock = Clock(config.warm_up, config.steps)

    def datasets(self) -> tuple[Dataset[Any], TensorDataset]:
        training, validation = super().datasets()
        return Repeated(training, self._clock.needed * self.config.batch_size), validation

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        self._clock.tick()
        return super().loss(output, target)


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
        return Repeated(some, self._clock.needed * self.config.batch_size), None

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        self._clock.tick()
        return functional.cross_entropy(output, target)

    def optimizer(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> Any:
        return torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9)


class Repeated(Dataset[Any]):
    """The samples of another, again and again."""

    def __init__(self, samples: TensorDataset, length: int) -> None:
        self._samples, self._length = samples, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        return self._samples[index % len(self._samples)]
