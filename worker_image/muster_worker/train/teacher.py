"""A trained model that another one learns from, beside the targets: `spec.distillation`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from muster_worker.compress.distill import distillation_loss
from muster_worker.train.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import nn

    from muster_worker.train.environment import Distillation
    from muster_worker.train.recipe import Recipe

FIELD = "spec.distillation"


class Teacher:
    """Whole on every rank: it computes the samples of this rank's share, whatever part of the student the rank has."""

    def __init__(self, model: nn.Module, settings: Distillation, recipe: Recipe, device: torch.device) -> None:
        self._model = model.to(device)
        self._settings = settings
        self._recipe = recipe

    def targets(self, inputs: tuple[Any, ...], target: Any) -> tuple[Any, Tensor]:
        """The samples' targets, and what the teacher makes of the samples."""
        with torch.no_grad():
            return target, self._model(*inputs)

    def loss(self, output: Any, targets: tuple[Any, Tensor]) -> Tensor:
        target, of_teacher = targets
        settings = self._settings
        return distillation_loss(output, of_teacher, target, self._recipe.loss, settings.temperature, settings.alpha)

    def check(self, student: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Raises ConfigurationError where the two do not answer the same question. `inputs`: some samples."""
        try:
            with torch.no_grad():
                of_teacher = self._model(*inputs)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigurationError(
                f"{FIELD}: the model of spec.initialModel does not take the samples: {reason}"
            ) from error
        student.eval()  # what it keeps of the samples that it trains on is not for these
        with torch.no_grad():
            of_student = student(*inputs)
        student.train()
        for who, output in (("the recipe's model", of_student), ("the model of spec.initialModel", of_teacher)):
            if not isinstance(output, Tensor) or not output.is_floating_point() or output.ndim < 2:
                raise ConfigurationError(
                    f"{FIELD}: {who} gives {_shown(output)}, wanted one tensor of logits of the shape (N, ..., classes)"
                )
        if of_student.shape != of_teacher.shape:
            raise ConfigurationError(
                f"{FIELD}: of {len(of_student)} samples the recipe's model makes {_shown(of_student)} and the model of"
                f" spec.initialModel {_shown(of_teacher)}, wanted the same shape"
            )


def _shown(output: Any) -> str:
    return f"{output.dtype} {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
