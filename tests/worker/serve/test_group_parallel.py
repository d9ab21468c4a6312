"""Models that several processes have a part of each: they compute what the whole model does, and come back whole."""

from __future__ import annotations

import signal

import numpy as np
import pytest
import torch

from muster_worker.compress.apply import compress
from muster_worker.parallel.layers import divided
from muster_worker.recipes.digits import Digits, DigitsConfig
from muster_worker.serve.group.layout import Layout
from muster_worker.train.export import Trained, export_model
from tests.worker.serve.conftest import ORIGIN
from tests.worker.serve.pods import Load, infer, until
from tests.worker.serve.reading import Reader

pytestmark = pytest.mark.usefixtures("on_this_machine")

EXAMPLES = torch.rand(3, 4)
READER = Reader().eval()


def wanted(points):
    with torch.inference_mode():
        return READER(torch.from_numpy(points))["output"].numpy()


@pytest.fixture(scope="module")
def publish(tmp_path_factory):
    """The directory of the model, as made by that recipe."""

    def made(recipe="Reading"):
        directory = tmp_path_factory.mktemp("models") / "reading"
        origin = ORIGIN | {"recipe": f"tests.worker.serve.reading:{recipe}"}
        export_model(directory, Trained(READER, (EXAMPLES,), {}, origin), "token")
        return directory

    return made


@pytest.fixture(scope="module")
def reading(publish):
    return publish()


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "count"),
    [
        (("--tensor", "2"), 1),
        (("--pipeline", "2"), 1),
        (("--pipeline", "3"), 1),
        (("--tensor", "2", "--pipeline", "2"), 2),
        (("--data", "2", "--tensor", "2"), 2),
    ],
)
def test_a_divided_model_computes_what_the_whole_does_whatever_the_size_of_a_batch(group, reading, words, count):
    pods = group(reading, *words, "--max-batch-size", "8", count=count)
    for samples in (1, 2, 3, 5, 8, 3, 20):
        points = np.random.default_rng(samples).random((samples, 4), dtype=np.float32)
        status, found = infer(pods.port, points, outputs=("output",))
        assert status == 200, found
        np.testing.assert_allclose(found, wanted(points), rtol=1e-4, atol=1e-6)


def test_layers_are_divided_that_are_given_or_give_whole_vectors(group, publish):
    pods = group(publish("Gathering"), "--tensor", "3")  # of 64 outputs, the third has 20; of 16 inputs, four
    points = np.random.default_rng(7).random((3, 4), dtype=np.float32)
    status, found = infer(pods.port, points, outputs=("output",))
    assert status == 200, found
    np.testing.assert_allclose(found, wanted(points), rtol=1e-4, atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("words", [("--tensor", "2"), ("--pipeline", "2")])
def test_a_rank_that_is_killed_takes_its_shard_with_it_and_all_come_back(group, reading, words):
    pods = group(reading, *words, "--max-batch-size", "4")
    with Load(pods.port, wanted, outputs=("output",)) as load:
        load.until_answered()
        for rank in ("rank 0", "rank 1"):
            pods.signal(signal.SIGKILL, rank)
            assert until(lambda: not pods.is_ready()) < 1
            until(pods.is_ready)
            load.until_answered()
    assert load.wrong == []
    death = pods.state()["death"]
    assert (death["count"], death["exitCode"]) == (2, 137)


def test_a_rank_that_is_killed_leaves_the_other_shards_alone(group, reading):
    pods = group(reading, "--data", "2", "--tensor", "2", "--max-batch-size", "4", count=2)
    others = [pods.process(name, pod=1) for name in ("rank 2", "rank 3")]
    with Load(pods.port, wanted, outputs=("output",)) as load:
        load.until_answered()
        pods.signal(signal.SIGKILL, "rank 1")
        until(lambda: not pods.is_ready())
        load.until_answered()
        until(pods.is_ready)
    assert load.wrong == []
    assert [pods.process(name, pod=1) for name in ("rank 2", "rank 3")] == others


@pytest.mark.long
@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("Reading", ("--tensor", "2")),
        ("Reading", ("--pipeline", "2")),
        ("Reading", ("--tensor", "2", "--pipeline", "3")),
        ("Late", ("--pipeline", "3")),
    ],
)
def test_what_the_model_says_of_a_request_is_told_and_the_same_ranks_answer_the_next(group, publish, recipe, words):
    pods = group(publish(recipe), *words, "--max-batch-size", "4")
    before = [pods.process(f"rank {rank}") for rank in (0, 1)]
    for samples in (1, 1, 2, 4, 3):
        points = np.ones((samples, 4), dtype=np.float32)
        assert infer(pods.port, -points) == (500, "the model failed: ValueError: negative")
        status, found = infer(pods.port, points, outputs=("output",))
        assert status == 200, found
        np.testing.assert_allclose(found, wanted(points), rtol=1e-4, atol=1e-6)
    assert pods.is_ready()
    assert [pods.process(f"rank {rank}") for rank in (0, 1)] == before
    assert pods.state()["death"] is None


@pytest.mark.parametrize("words", [("--tensor", "2"), ("--pipeline", "2")])
def test_the_digits_can_be_divided(group, tmp_path, words):
    recipe = Digits(DigitsConfig(channels=4))
    model = recipe.model().eval()
    origin = ORIGIN | {"recipe": "muster_worker.recipes.digits:Digits", "config": {"channels": 4}}
    images = torch.rand(3, 1, 8, 8)
    export_model(tmp_path / "digits", Trained(model, (images,), {}, origin), "token")
    pods = group(tmp_path / "digits", *words, "--max-batch-size", "8")
    status, found = infer(pods.port, images.numpy(), name="images")
    assert status == 200, found
    np.testing.assert_allclose(found, model(images).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize(
    ("recipe", "words", "told"),
    [
        ("Whole", ("--tensor", "2"), "parallelism.tensor: found 2, wanted 1, or a recipe that says how: tests.worker."),
        ("Whole", ("--pipeline", "2"), "parallelism.pipeline: found 2, wanted 1, or a recipe that says how: tests."),
        ("Reading", ("--pipeline", "6"), "parallelism.pipeline: found 6, wanted at most 5: so many layers has tests."),
        ("Misnamed", ("--tensor", "2"), "names blocks.*.gone, which is not there"),
    ],
)
def test_a_model_that_cannot_be_divided_so_is_named(group, publish, recipe, words, told):
    (pod,) = group(publish(recipe), *words, ready=False).pods
    assert told in pod.rest()
    assert pod.process.returncode == 2


@pytest.fixture
def quantized(tmp_path):
    """Gives the model, with weights by these settings, and its directory."""

    def make(recipe="Reading", **settings):
        origin = ORIGIN | {"recipe": f"tests.worker.serve.reading:{recipe}"}
        compressed = compress(Trained(READER, (EXAMPLES,), {}, origin), [{"quantize": settings}], lambda _: {})
        export_model(tmp_path / "reading", compressed, "token")
        return compressed.model, tmp_path / "reading"

    return make


@pytest.mark.long
@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("Reading", ("--tensor", "2")),
        ("Reading", ("--pipeline", "2")),
        ("Reading", ("--tensor", "2", "--pipeline", "2")),
        ("Gathering", ("--tensor", "2")),
    ],
)
@pytest.mark.parametrize("settings", [{"bits": 8}, {"bits": 4}, {"mode": "dynamic"}])
def test_quantized_layers_are_divided(group, quantized, settings, recipe, words):
    model, directory = quantized(recipe, **settings)
    points = np.random.default_rng(7).random((3, 4), dtype=np.float32)
    pods = group(directory, *words, "--max-batch-size", "8")
    status, found = infer(pods.port, points, outputs=("output",))
    assert status == 200, found
    # Ranks that divide the inputs of a dynamic layer quantize what enters it by a scale each.
    exact = "--tensor" not in words or "mode" not in settings
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if exact else {"rtol": 0, "atol": 0.01}
    np.testing.assert_allclose(found, model(torch.from_numpy(points))["output"].detach().numpy(), **tolerance)


def test_quantized_layers_that_only_floating_point_numbers_can_be_divided_in_are_named(group, quantized):
    _, directory = quantized(bits=8, recipe="Normalising")
    (pod,) = group(directory, "--tensor", "2", ready=False).pods
    told = (
        "found 2, with quantized weights and a tensor_plan for blocks.0.norm, blocks.1.norm, blocks.2.norm: wanted 1 or"
    )
    assert told in pod.rest()
    assert pod.process.returncode == 2


@pytest.mark.parametrize(
    ("weights", "count", "runs"),
    [
        ([1, 1, 1, 1], 2, [2, 2]),
        ([5, 1, 1, 1], 2, [1, 3]),
        ([1, 1, 1, 5], 2, [3, 1]),
        ([0, 320, 0, 18496, 0, 0, 10250], 2, [4, 3]),
        ([1, 2, 3], 3, [1, 1, 1]),
    ],
)
def test_layers_are_divided_so_that_no_stage_is_heavier_than_it_must_be(weights, count, runs):
    found = divided(weights, count)
    assert [len(run) for run in found] == runs
    assert [index for run in found for index in run] == list(range(len(weights)))


@pytest.mark.parametrize(
    ("layout", "decoders"),
    [(Layout(data=2, tensor=2), [8]), (Layout(pipeline=2), [4, 4]), (Layout(data=2, pipeline=3), [3, 3, 3])],
)
def test_each_stage_of_a_pipeline_has_texts_of_its_own_to_compute(layout, decoders):
    assert layout.slots_of_decoders(8) == decoders


def test_the_first_rank_of_the_last_stage_answers_for_its_shard():
    layout = Layout(data=2, tensor=2, pipeline=3)
    assert [rank for rank in range(layout.processes) if layout.answers(rank)] == [4, 10]
