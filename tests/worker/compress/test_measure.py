"""What a model costs is what the file system, memory and the clock say."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from muster_worker.compress.measure import latency, measure, memory_bytes, weights_bytes
from muster_worker.train.export import Trained, export_model
from muster_worker.train.model_directory import load_model
from tests.worker.compress.sizes import directory_bytes
from tests.worker.train.recipes import Two


class Slow(nn.Module):
    """Takes so many seconds for a batch; notes how many samples each had."""

    def __init__(self, seconds):
        super().__init__()
        self._seconds = seconds
        self.batches = []

    def forward(self, points):
        time.sleep(self._seconds)  # what is measured
        self.batches.append(len(points))
        return points


def test_bytes_are_those_on_the_disk(tmp_path):
    model = nn.Linear(40, 30)
    export_model(tmp_path / "model", Trained(model, (torch.ones(3, 40),), {}, {}), "token")
    everything, weights = directory_bytes(tmp_path / "model")
    assert everything == sum(path.stat().st_size for path in (tmp_path / "model").iterdir())
    assert weights == (tmp_path / "model/model.safetensors").stat().st_size == weights_bytes(model)
    assert weights >= 4 * (40 * 30 + 30)


def test_memory_is_parameters_and_buffers_and_what_is_shared_counts_once():
    # A shared weight, two biases; of the norm: factor, bias, mean, variance, and a count of 8 bytes.
    assert memory_bytes(Two()) == 4 * (16 + 4 + 4) + 4 * (4 * 4) + 8


def test_a_program_has_the_memory_of_its_model(tmp_path):
    model = nn.Linear(40, 30)
    export_model(tmp_path / "model", Trained(model, (torch.ones(3, 40),), {}, {}), "token")
    assert memory_bytes(load_model(tmp_path / "model").program()) == memory_bytes(model) == 4 * (40 * 30 + 30)


@pytest.mark.parametrize("samples", [1, 5])
def test_latency_is_the_seconds_of_a_sample(samples):
    model = Slow(0.01)
    found = latency(model, (torch.ones(3, 2),), samples)
    assert 0.01 / samples <= found < 1
    assert set(model.batches) == {samples}
    assert len(model.batches) == 33


def test_a_slow_model_is_measured_by_fewer_runs(monkeypatch):
    monkeypatch.setattr("muster_worker.compress.measure._SECONDS", 0.0)
    model = Slow(0.001)
    assert latency(model, (torch.ones(3, 2),), 1) >= 0.001
    assert len(model.batches) == 4


def test_all_is_measured_together():
    model = nn.Linear(4, 2)
    found = measure(model, (torch.ones(3, 4),), lambda _: {"validationLoss": 0.5})
    assert (found.bytes, found.memory) == (weights_bytes(model), 40)
    assert found.latency > 0
    assert found.metrics == {"validationLoss": 0.5}
