"""One process measures what ranks measure together."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import TensorDataset

from muster_worker.train.evaluation import evaluate, evaluate_alone, sums_over
from muster_worker.train.precision import Precision
from muster_worker.train.strategy.layout import Chosen, Layout
from muster_worker.train.trainer import built
from tests.worker.train.recipes import Line, LineConfig

CPU = torch.device("cpu")
PRECISION = Precision(torch.float32, "cpu")
RECIPE = Line(LineConfig(dropout=0.5))


@pytest.mark.usefixtures("lone_rank")
def test_alone_is_as_together():
    model, _, validation = built(RECIPE, CPU)
    together = evaluate(RECIPE, model, validation, PRECISION, CPU, Layout.of(Chosen(), 0, 1))
    assert evaluate_alone(RECIPE, model, validation, PRECISION, CPU) == together
    assert set(together) == {"validationLoss", "validationAccuracy"}


def test_it_is_the_mean_over_all_samples_and_needs_no_process_group():
    model, _, validation = built(RECIPE, CPU)
    inputs, targets = validation.tensors
    found = evaluate_alone(RECIPE, model, validation, PRECISION, CPU)
    loss = RECIPE.loss(model.eval()(inputs), targets).item()
    assert found["validationLoss"] == pytest.approx(loss)


def test_a_sample_that_counts_nothing_makes_no_number_none():
    """A rank that has no sample left measures the first one for the others' sake: of it alone, this metric is 0 / 0."""
    model, _, _ = built(RECIPE, CPU)
    points = torch.ones(3, 4)
    samples = TensorDataset(points, torch.tensor([[-1.0], [2.0], [3.0]]))
    chunks = [range(3), range(0)]
    sums = sums_over(OfPositives(LineConfig()), model, samples, chunks, PRECISION, CPU)
    assert sums["validationHeight"].item() == pytest.approx(3 * 2.5)


class OfPositives(Line):
    def metrics(self, output, target):
        return {"height": target[target > 0].mean()}


@pytest.mark.parametrize("training", [True, False])
def test_it_leaves_the_model_in_the_mode_it_was_in(training):
    model, _, validation = built(RECIPE, CPU)
    model.train(training)
    evaluate_alone(RECIPE, model, validation, PRECISION, CPU)
    assert model.training == training
