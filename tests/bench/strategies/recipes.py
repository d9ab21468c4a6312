"""What is trained by every strategy: a transformer that times itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muster_worker.recipes.chargpt import CharGPT, CharGPTConfig
from muster_worker.train import setting
from tests.bench.throughput.clock import Clock
from tests.bench.throughput.recipes import Repeated

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn
    from torch.utils.data import Dataset


@dataclass(frozen=True, kw_only=True)
class TimedCharGPTConfig(CharGPTConfig):
    epochs: int = setting(1, minimum=1)
    warm_up: int = setting(4, minimum=1)
    steps: int = setting(24, minimum=1)


class TimedCharGPT(CharGPT):
    """The recipe chargpt as it is: 805,216 parameters, 2,048 characters a step."""

    config_type = TimedCharGPTConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._clock = Clock(config.warm_up, config.steps)

    def datasets(self) -> tuple[Dataset[Any], None]:  # type: ignore[override]
        training, _ = super().datasets()
        return Repeated(training), None

    def optimizer(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> Any:
        return self._clock.watch(super().optimizer(parameters, learning_rate))
