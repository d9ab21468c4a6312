"""Distillation: a student learns from what a teacher makes of a sample, beside the sample's target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn.functional import kl_div, log_softmax

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    hard_loss: Callable[[Tensor, Tensor], Tensor],
    temperature: float,
    alpha: float,
) -> Tensor:
    """The scalar alpha T² KL(p_T ‖ q_T) + (1 - alpha) hard_loss(student_logits, target).

    p_T = softmax(teacher_logits / T) and q_T = softmax(student_logits / T); KL is the mean over all rows of the logits,
    both (N, …, classes), in nats. T² makes up for the gradients of the soft targets, which shrink as 1 / T². From
    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015), section 2.

    `hard_loss`: the mean loss by the target, as `Recipe.loss`. `temperature`: T, above 0. `alpha`: the teacher's part,
    from 0 to 1. No gradient goes to the teacher.
    """
    teacher = log_softmax(teacher_logits.detach() / temperature, dim=-1).flatten(0, -2)
    student = log_softmax(student_logits / temperature, dim=-1).flatten(0, -2)
    soft = kl_div(student, teacher, reduction="batchmean", log_target=True)
    return alpha * temperature**2 * soft + (1 - alpha) * hard_loss(student_logits, target)
