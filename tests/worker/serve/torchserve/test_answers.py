"""What TorchServe computes is what the model computes, by every way in which it can be asked."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import tritonclient.grpc
import tritonclient.http

from muster_worker.serve.model import ServedModel
from muster_worker.train.model_directory import load_model, summary
from tests.worker.serve.pods import ask, infer, until
from tests.worker.serve.reading import Reader


@pytest.fixture(scope="module")
def served(torchserve_for_module, affine):
    return torchserve_for_module(affine, "--max-batch-size", "8", "--max-delay-milliseconds", "5")


def computed(directory, *inputs):
    """By the model itself, in this process."""
    model = ServedModel.load(directory, torch.device("cpu"))
    outputs = model.compute([torch.from_numpy(array) for array in inputs])
    return {spec.name: output.numpy() for spec, output in zip(model.signature.outputs, outputs, strict=True)}


def tensors(kind, **arrays):
    """Inputs for Triton's client, of HTTP or gRPC."""
    given = []
    for name, array in arrays.items():
        datatype = {"float32": "FP32", "int64": "INT64"}[str(array.dtype)]
        given.append(kind.InferInput(name, list(array.shape), datatype))
        given[-1].set_data_from_numpy(array)
    return given


def test_it_says_of_the_model_what_serve_says(served, affine):
    sha256 = summary(load_model(affine)).sha256
    _, described = ask(served.port, "GET", "/v2/models/affine")
    assert described == {
        "name": "affine",
        "versions": [sha256[:12]],
        "platform": "pytorch",
        "inputs": [{"name": "points", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "output", "datatype": "FP32", "shape": [-1, 2]}],
    }
    _, state = ask(served.port, "GET", "/state")
    assert (state["ready"], state["model"]["sha256"], state["death"]) == (True, sha256, None)


@pytest.mark.parametrize("samples", [1, 3, 8, 20])
def test_answers_are_those_of_the_model(served, affine, samples):
    points = np.random.default_rng(samples).random((samples, 4), dtype=np.float32)
    wanted = computed(affine, points)["output"]
    status, found = infer(served.port, points)
    assert status == 200
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    with contextlib.closing(served.grpc_client()) as client:
        answer = client.infer("affine", tensors(tritonclient.grpc, points=points))
    np.testing.assert_allclose(answer.as_numpy("output"), wanted, rtol=1e-6)


def test_requests_at_once_are_computed_together_and_each_gets_its_own(served):
    before = served.batches()

    def asked(number):
        return infer(served.port, np.full((1, 4), number, np.float32))

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(asked, range(80)))
    assert [status for status, _ in answers] == [200] * 80
    assert [found[0, 0] for _, found in answers] == [4.0 * number for number in range(80)]
    assert served.batches() - before < 80, "no two were computed together"


def test_what_torchserve_counts_is_told_beside_the_servers_own(served):
    for _ in range(10):
        infer(served.port, np.ones((1, 4), np.float32))
    until(lambda: served.counted().get("ts_inference_requests_total", (0, 0))[1] > 10)
    found = served.counted()
    assert found["muster_serve_ready"] == (1, 1)
    assert found["muster_serve_requests_total"][1] >= 10


@pytest.mark.parametrize(
    ("points", "wanted"),
    [
        (np.ones((1, 5), np.float32), "input points: its shape is [1, 5], wanted [-1, 4] (-1: 1 or more)"),
        (np.ones((0, 4), np.float32), "input points: its shape is [0, 4], wanted [-1, 4] (-1: 1 or more)"),
    ],
)
def test_a_request_that_does_not_fit_is_told_what_does(served, points, wanted):
    assert infer(served.port, points) == (400, wanted)


def test_several_inputs_and_outputs_of_several_types(torchserve, two):
    served = torchserve(two)
    first, second = np.array([[1, 2], [3, 4], [5, 6]]), np.array([[0, 5], [3, 1], [9, 9]])
    wanted = computed(two, first, second)
    with contextlib.closing(served.client()) as client:
        answer = client.infer("affine", tensors(tritonclient.http, first=first, second=second))
    for name, array in wanted.items():
        found = answer.as_numpy(name)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def test_a_model_that_only_a_recipe_has_computes_and_fails_in_its_own_words(torchserve, recipes_model):
    directory = recipes_model("tests.worker.serve.reading:Reading", Reader().eval(), torch.ones(3, 4))
    assert load_model(directory).description["program"] is None
    served = torchserve(directory, "--max-batch-size", "4", "--max-delay-milliseconds", "50")
    points = np.random.default_rng(0).random((2, 4), dtype=np.float32)
    with ThreadPoolExecutor(2) as clients:
        good = clients.submit(infer, served.port, points, outputs=["output"])
        bad = clients.submit(infer, served.port, -np.ones((1, 4), np.float32), outputs=["output"])
        assert bad.result() == (500, "the model failed: ValueError: negative")
        status, found = good.result()
    assert status == 200
    np.testing.assert_allclose(found, computed(directory, points)["output"], rtol=1e-5)
