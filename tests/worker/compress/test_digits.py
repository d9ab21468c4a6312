"""What compression promises, on the recipe that users copy: bytes saved, and what that costs."""

from __future__ import annotations

import pytest

from muster_worker.compress.apply import AccuracyError, compress
from muster_worker.compress.measure import memory_bytes, weights_bytes
from muster_worker.compress.quantize import Quantize
from muster_worker.recipes.digits import Network
from muster_worker.train.export import export_model
from muster_worker.train.model_directory import load_model
from tests.worker.compress.sizes import directory_bytes

EIGHT, FOUR = {"quantize": {"bits": 8}}, {"quantize": {"bits": 4}}
DYNAMIC = {"quantize": {"mode": "dynamic"}}


@pytest.mark.long
def test_training_measured_what_is_measured_here(reader):
    measured = reader.evaluate(reader.trained.model)
    assert {name: reader.trained.metrics[name] for name in measured} == pytest.approx(measured, abs=1e-6)
    assert measured["validationAccuracy"] > 0.95


@pytest.mark.long
@pytest.mark.parametrize(
    ("steps", "bytes_", "memory", "drop"),
    [
        ([EIGHT], 0.30, 0.26, 0.005),
        ([FOUR], 0.18, 0.16, 0.01),
        ([DYNAMIC], 0.80, 0.75, 0.005),
        ([DYNAMIC, EIGHT], 0.30, 0.26, 0.005),
        ([{"clip": {"standardDeviations": "3"}}, FOUR], 0.18, 0.16, 0.01),
        ([{"clip": {"standardDeviations": "3"}}], 1.0, 1.0, 0.01),
        ([{"prune": {"fraction": "0.3"}}, EIGHT], 0.30, 0.26, 0.01),
    ],
    ids=str,
)
def test_so_many_bytes_are_left_and_so_much_accuracy_is_lost(reader, tmp_path, steps, bytes_, memory, drop):
    compressed = compress(reader.trained, steps, reader.evaluate)
    export_model(tmp_path / "model", compressed, "token")
    _, before = directory_bytes(reader.directory)
    _, after = directory_bytes(tmp_path / "model")
    assert after <= bytes_ * before
    assert memory_bytes(load_model(tmp_path / "model").program()) <= memory * memory_bytes(reader.trained.model)
    first, last = compressed.compression[0], compressed.compression[-1]
    assert (first["bytesBefore"], last["bytesAfter"]) == (before, after)
    assert first["accuracyBefore"] - last["accuracyAfter"] <= drop


@pytest.mark.parametrize(("bits", "ratio"), [(8, 0.252), (4, 0.143)])
def test_of_a_larger_model_hardly_more_than_its_bits_are_left(bits, ratio):
    network = Network(channels=256)
    before = weights_bytes(network)
    Quantize(bits=bits).compress(network)
    assert weights_bytes(network) <= ratio * before


def test_what_costs_too_much_is_not_published(reader):
    with pytest.raises(AccuracyError, match=r"spec\.compression\[0\]\.prune\.maxAccuracyDrop: the accuracy fell by "):
        compress(reader.trained, [{"prune": {"fraction": "0.99", "maxAccuracyDrop": "0.01"}}], reader.evaluate)
