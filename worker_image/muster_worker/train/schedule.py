"""The learning rate over time: a warm-up, then constant, falling along a cosine, or lowered when a metric stalls.

Steps are updates of the parameters, whose number no resize changes: neither do the rates.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from muster_worker.train.errors import ConfigurationError
from muster_worker.train.evaluation import validation_name

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch.optim import Optimizer

    from muster_worker.train.environment import LearningRate
    from muster_worker.train.recipe import Recipe

BETTER = 1e-4
"""Of the best value so far: a metric that changes by less has stalled."""

ABSOLUTE = "abs"
"""How torch is told to take a threshold."""

_SEEN = ("best", "num_bad_epochs", "last_epoch")
"""What torch's scheduler has of the evaluations. All else in its state are settings, which are the job's."""

FIELD = "spec.optimisation.learningRate.metric"


class Schedule:
    """Driven by the step and by metrics that are equal on all ranks, so that the learning rate is, too."""

    def __init__(self, settings: LearningRate, recipe: Recipe, total_steps: int) -> None:
        self._settings = settings
        self._total = total_steps
        self._plateau: ReduceLROnPlateau | None = None
        # Its rate is what the real ones are multiplied by: an optimizer may have several, and another at a new start.
        self._factor = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        if settings.schedule == "plateau":
            mode = "max" if settings.metric in map(validation_name, recipe.maximised) else "min"
            # Without torch's eps, below which it changes nothing: of a factor it is another than of a rate.
            self._plateau = ReduceLROnPlateau(
                self._factor, mode, settings.factor, settings.patience, threshold_mode=ABSOLUTE, eps=0.0
            )

    def check(self, names: Collection[str]) -> None:
        """Raises ConfigurationError when the metric that drives the schedule is none of `names`."""
        if self._plateau is not None and self._settings.metric not in names:
            raise ConfigurationError(
                f"{FIELD}: found {self._settings.metric}, wanted one of {', '.join(sorted(names))}"
            )

    def drive(self, optimizer: Optimizer) -> None:
        """From now on it sets the optimizer's rates, which are those of the start."""
        self._optimizer = optimizer
        self._initial = [float(group["lr"]) for group in optimizer.param_groups]

    @property
    def learning_rate(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

    def before_step(self, step: int) -> None:
        """`step`: how many have been made."""
        share = self._share(step)
        for group, initial in zip(self._optimizer.param_groups, self._initial, strict=True):
            group["lr"] = max(initial * share, min(self._settings.minimum, initial))

    def _share(self, step: int) -> float:
        warm_up = self._settings.warm_up_steps
        if step < warm_up:
            return (step + 1) / warm_up
        if self._settings.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, self._total - warm_up)))
        return float(self._factor.param_groups[0]["lr"])

    def after_evaluation(self, metrics: Mapping[str, float]) -> None:
        if self._plateau is not None:
            # Not torch's own relative threshold, by which a metric below zero gets better by staying as it is.
            best = self._plateau.best
            self._plateau.threshold = BETTER * abs(best) if math.isfinite(best) else 0.0
            self._plateau.step(metrics[self._settings.metric])

    def state_dict(self) -> dict[str, Any]:
        if self._plateau is None:
            return {}
        seen = {name: getattr(self._plateau, name) for name in _SEEN}
        return {"metric": self._settings.metric, "plateau": seen, "factor": self._factor.param_groups[0]["lr"]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """A job that goes on may look at another metric than before: then only the rate is what it was."""
        if not self._plateau or not state:
            return
        self._factor.param_groups[0]["lr"] = state["factor"]
        if state.get("metric", self._settings.metric) == self._settings.metric:
            self._plateau.load_state_dict({name: state["plateau"][name] for name in _SEEN})
