"""One metric over the evaluations: its best value, when that was, and how many evaluations have come since."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from muster_worker.train.errors import ConfigurationError
from muster_worker.train.evaluation import validation_name

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from muster_worker.train.recipe import Recipe


class Watch:
    """Sees what is equal on all ranks, and so do all come to the same."""

    def __init__(self, field: str, metric: str, recipe: Recipe, minimum_change: float = 0.0) -> None:
        """`field`: what names the metric in the manifest. A smaller change than `minimum_change` is none."""
        self._field, self._metric = field, metric
        self._rises = metric in map(validation_name, recipe.maximised)
        self._minimum_change = minimum_change
        self._best: float | None = None
        self.step: int | None = None
        """The step after which it was best; None before the first evaluation."""

        self.since = 0
        """Evaluations since then."""

    def check(self, names: Collection[str]) -> None:
        """Raises ConfigurationError when no evaluation gives the metric."""
        if self._metric not in names:
            raise ConfigurationError(f"{self._field}: found {self._metric}, wanted one of {', '.join(sorted(names))}")

    def look(self, metrics: Mapping[str, float], step: int) -> None:
        """After each evaluation."""
        value = metrics[self._metric]
        if self._best is None or self._is_better(value, self._best):
            self._best, self.step, self.since = value, step, 0
        else:
            self.since += 1

    def _is_better(self, value: float, best: float) -> bool:
        """Any number is better than none, to which nothing compares."""
        if math.isnan(best):
            return not math.isnan(value)
        return (value - best if self._rises else best - value) > self._minimum_change

    def state_dict(self) -> dict[str, Any]:
        return {"metric": self._metric, "best": self._best, "step": self.step, "since": self.since}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """A job that goes on may watch another metric than before, or one for the first time: then it begins anew."""
        if state is not None and state["metric"] == self._metric:
            self._best, self.step, self.since = state["best"], state["step"], state["since"]
