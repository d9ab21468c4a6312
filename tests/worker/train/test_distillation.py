"""A student learns from a teacher: better than alone, by every strategy, and goes on where it was."""

from __future__ import annotations

import json

import pytest
import torch

from muster_worker.train.environment import Distillation
from muster_worker.train.model_directory import load_model, summary
from muster_worker.train.teacher import Teacher
from tests.worker.train.recipes import Logits

DIGITS = "muster_worker.recipes.digits:Digits"
DEEP = "tests.worker.train.recipes:Deep"
STUDENT = {"channels": 6, "epochs": 40}
COSINE = {"learningRate": {"schedule": "cosine"}}


def finish(group):
    assert group.wait() == [0] * len(group.processes), group.output()
    return group


def taught_by(group, alpha="0.9"):
    directory = group.storage / "model"
    return {
        "MUSTER_INITIAL_MODEL": str(directory),
        "MUSTER_INITIAL_MODEL_SHA256": summary(load_model(directory)).sha256,
        "MUSTER_DISTILLATION": json.dumps({"temperature": "2", "alpha": alpha}),
    }


def accuracy(group):
    return load_model(group.storage / "model").description["metrics"]["validationAccuracy"]


@pytest.mark.long
def test_a_student_of_a_tenth_of_the_size_comes_near_its_teacher_and_is_better_than_alone(start_ranks):
    teacher = finish(start_ranks("teacher", 1, recipe=DIGITS, config={"epochs": 20}))
    options = {"recipe": DIGITS, "config": STUDENT, "optimisation": COSINE}
    alone = finish(start_ranks("alone", 1, **options))
    student = finish(start_ranks("student", 1, **options, **taught_by(teacher)))
    sizes = [load_model(group.storage / "model").description["parameters"] for group in (student, teacher)]
    assert sizes[0] <= 0.1 * sizes[1]
    assert accuracy(student) >= accuracy(teacher) - 0.015
    assert accuracy(student) > accuracy(alone)
    assert "learning from the model that muster_worker.recipes.digits:Digits made" in student.output()


LOGITS = "tests.worker.train.recipes:Logits"


@pytest.fixture
def teacher(start_ranks):
    return finish(start_ranks("teacher", 1, recipe=LOGITS, config={"width": 16}))


@pytest.mark.long
@pytest.mark.parametrize(("kind", "count"), [("ddp", 3), ("fsdp", 2), ("tensor", 2), ("pipeline", 2)])
def test_every_strategy_learns_the_same_of_it(start_ranks, teacher, kind, count):
    alone = finish(start_ranks("one", 1, recipe=LOGITS, **taught_by(teacher)))
    strategy = json.dumps({"type": kind})
    group = finish(start_ranks("several", count, recipe=LOGITS, MUSTER_STRATEGY=strategy, **taught_by(teacher)))
    found, wanted = (load_model(one.storage / "model").weights() for one in (group, alone))
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_what_is_learned_depends_on_the_teacher(start_ranks, teacher):
    with_it = finish(start_ranks("with", 1, recipe=LOGITS, **taught_by(teacher)))
    without = finish(start_ranks("without", 1, recipe=LOGITS, **taught_by(teacher, alpha="0")))
    plain = finish(start_ranks("plain", 1, recipe=LOGITS))
    weights = [load_model(one.storage / "model").weights()["last.weight"] for one in (with_it, without, plain)]
    torch.testing.assert_close(weights[1], weights[2])
    assert not torch.allclose(weights[0], weights[2])


def test_looking_whether_they_fit_changes_nothing_of_the_student():
    student = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    recipe = Logits(Logits.config_type())
    Teacher(torch.nn.Linear(4, 2), Distillation(), recipe, torch.device("cpu")).check(student, (torch.randn(3, 4),))
    for name, tensor in student.state_dict().items():
        assert tensor.equal(before[name])
    assert student.training


def test_who_begins_to_learn_otherwise_needs_another_path(start_ranks, teacher):
    finish(start_ranks("storage", 1, recipe=LOGITS, **taught_by(teacher)))
    group = start_ranks("storage", 1, recipe=LOGITS, **taught_by(teacher, alpha="0.5"))
    assert group.wait() == [2]
    assert "were made with distillation = {'temperature': 2.0, 'alpha': 0.9}, this job has" in group.output()


@pytest.mark.long
@pytest.mark.parametrize(
    ("recipe", "config", "message"),
    [
        (DEEP, {}, "the recipe's model makes torch.float32 (2, 1) and the model of spec.initialModel"),
        (DIGITS, {}, "spec.distillation: the model of spec.initialModel does not take the samples: "),
    ],
)
def test_a_teacher_that_does_not_fit_is_named(start_ranks, teacher, recipe, config, message):
    group = start_ranks("student", 2, recipe=recipe, config=config, **taught_by(teacher))
    assert set(group.wait()) == {2}
    assert message in group.output()
