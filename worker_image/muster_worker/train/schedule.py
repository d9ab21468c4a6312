"""The learning rate over time: constant, or lowered when a metric stops getting better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from muster_worker.train.errors import ConfigurationError
from muster_worker.train.evaluation import validation_name

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch.optim import Optimizer

    from muster_worker.train.environment import LearningRate
    from muster_worker.train.recipe import Recipe

FIELD = "spec.optimisation.learningRate.metric"


class Schedule:
    """Driven by metrics that are equal on all ranks, so that the learning rate is, too."""

    def __init__(self, settings: LearningRate, optimizer: Optimizer, recipe: Recipe) -> None:
        self._metric = settings.metric
        self._optimizer = optimizer
        self._plateau: ReduceLROnPlateau | None = None
        if settings.schedule == "plateau":
            mode = "max" if settings.metric in map(validation_name, recipe.maximised) else "min"
            self._plateau = ReduceLROnPlateau(optimizer, mode, settings.factor, settings.patience)

    def check(self, names: Collection[str]) -> None:
        """Raises ConfigurationError when the metric that drives the schedule is none of `names`."""
        if self._plateau is not None and self._metric not in names:
            raise ConfigurationError(f"{FIELD}: found {self._metric}, wanted one of {', '.join(sorted(names))}")

    @property
    def learning_rate(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

    def step(self, metrics: Mapping[str, float]) -> None:
        """After each evaluation."""
        if self._plateau is not None:
            self._plateau.step(metrics[self._metric])

    def state_dict(self) -> dict[str, Any]:
        return dict(self._plateau.state_dict()) if self._plateau else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The rate itself is in the optimizer's state."""
        if self._plateau and state:
            self._plateau.load_state_dict(state)
