"""The recipe that users copy learns what it promises."""

from __future__ import annotations

import pytest
import torch

from muster_worker.recipes.digits import load_digits
from muster_worker.train.model_directory import load_model


def test_the_images_are_scikit_learns():
    images, digits = load_digits()
    assert images.shape == (1797, 1, 8, 8)
    assert (images.min(), images.max()) == (0, 1)
    assert torch.bincount(digits).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.mark.long
def test_three_ranks_learn_to_read_digits(start_ranks):
    group = start_ranks("storage", 3, recipe="muster_worker.recipes.digits:Digits")
    assert group.wait() == [0, 0, 0], group.output()
    last = group.reports()[-1]
    assert last["validationAccuracy"] >= 0.97
    model = load_model(group.storage / "model")
    assert model.description["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]
    assert model.description["outputs"] == [{"name": "output", "datatype": "FP32", "shape": [-1, 10]}]
    images, digits = load_digits()
    accuracy = (model.program()(images).argmax(dim=1) == digits).float().mean()
    assert accuracy >= 0.97
