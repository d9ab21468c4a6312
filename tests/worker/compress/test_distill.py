"""The loss by which a student learns from a teacher, against what one computes by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from muster_worker.compress.distill import distillation_loss


def softened(logits, temperature):
    exponentials = [math.exp(logit / temperature) for logit in logits]
    return [one / sum(exponentials) for one in exponentials]


def divergence(teacher, student):
    return sum(p * math.log(p / q) for p, q in zip(teacher, student, strict=True))


TEACHER = [[2.0, 0.0, -1.0], [0.5, 1.5, 0.0]]
STUDENT = [[1.0, 0.5, 0.0], [0.0, 1.0, 2.0]]
TARGET = [0, 2]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_it_is_what_one_computes_by_hand(temperature, alpha):
    rows = list(zip(TEACHER, STUDENT, strict=True))
    soft = sum(divergence(softened(t, temperature), softened(s, temperature)) for t, s in rows) / 2
    hard = -sum(math.log(softened(s, 1.0)[right]) for s, right in zip(STUDENT, TARGET, strict=True)) / 2
    found = distillation_loss(
        torch.tensor(STUDENT), torch.tensor(TEACHER), torch.tensor(TARGET), cross_entropy, temperature, alpha
    )
    assert found.item() == pytest.approx(alpha * temperature**2 * soft + (1 - alpha) * hard, rel=1e-5)


def test_who_says_the_same_as_the_teacher_has_nothing_to_learn_from_it():
    logits = torch.tensor(TEACHER)
    assert distillation_loss(logits, logits, torch.tensor(TARGET), cross_entropy, 2.0, 1.0).item() == 0


def test_of_sequences_it_is_the_mean_over_all_places():
    teacher, student = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    targets = torch.randint(5, (2, 3))

    def hard(logits, target):
        return cross_entropy(logits.flatten(0, 1), target.flatten())

    found = distillation_loss(student, teacher, targets, hard, 3.0, 0.5)
    places = [
        distillation_loss(student[i, j][None], teacher[i, j][None], targets[i, j][None], cross_entropy, 3.0, 0.5)
        for i in range(2)
        for j in range(3)
    ]
    torch.testing.assert_close(found, torch.stack(places).mean())


def test_the_student_learns_and_the_teacher_does_not():
    teacher = torch.tensor(TEACHER, requires_grad=True)
    student = torch.tensor(STUDENT, requires_grad=True)
    distillation_loss(student, teacher, torch.tensor(TARGET), cross_entropy, 4.0, 1.0).backward()
    assert teacher.grad is None
    # The gradient by Hinton, Vinyals and Dean: T (q - p), here for the mean over two rows.
    for row, (taught, said) in enumerate(zip(TEACHER, STUDENT, strict=True)):
        wanted = [4.0 * (q - p) / 2 for p, q in zip(softened(taught, 4.0), softened(said, 4.0), strict=True)]
        assert student.grad[row].tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-6)
