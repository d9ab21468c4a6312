"""A job that compresses what it has trained: published so, told, held to its accuracy, and not done twice."""

from __future__ import annotations

import json

import pytest

from muster_worker.train.durable import read_json
from muster_worker.train.model_directory import load_model

DEEP = "tests.worker.train.recipes:Deep"
STEPS = [{"clip": {"standardDeviations": "3"}}, {"quantize": {"bits": 8}}]


def train(start_ranks, steps, *, recipe=DEEP, strategy='{"type": "fsdp"}', **options):
    config = {"epochs": 2, "width": 64, "blocks": 2} if recipe == DEEP else {"epochs": 1}
    variables = {"MUSTER_COMPRESSION": json.dumps(steps), "MUSTER_STRATEGY": strategy}
    return start_ranks(recipe=recipe, config=config, **variables, **options)


def test_it_publishes_the_compressed_model_and_tells_what_each_step_did(start_ranks):
    group = train(start_ranks, STEPS)
    assert group.wait() == [0, 0], group.output()
    told = group.reports()[-1]["model"]["compression"]
    assert [report["step"] for report in told] == STEPS
    clip, quantize = told
    assert clip["bytesBefore"] == clip["bytesAfter"] == quantize["bytesBefore"]
    assert quantize["bytesAfter"] < 0.35 * quantize["bytesBefore"]
    model = load_model(group.storage / "model")
    assert model.description["compression"] == told
    assert model.program() is not None
    published = (group.storage / "model" / "model.json").stat().st_mtime_ns
    again = train(start_ranks, STEPS)
    assert again.wait() == [0, 0], again.output()
    assert again.reports()[-1]["model"]["compression"] == told
    assert (group.storage / "model" / "model.json").stat().st_mtime_ns == published


@pytest.mark.long
def test_the_others_wait_for_as_long_as_it_takes(start_ranks):
    """Of two, one measures all samples alone, twice: nine seconds and more, where five are the limit of all else."""
    group = train(start_ranks, STEPS[1:], recipe="tests.worker.train.recipes:Impatient", PAUSE="1.5")
    assert group.wait() == [0, 0], group.output()


def test_another_compression_is_made_of_the_final_checkpoint(start_ranks):
    assert train(start_ranks, STEPS).wait() == [0, 0]
    group = train(start_ranks, [{"quantize": {"bits": 4}}])
    assert group.wait() == [0, 0], group.output()
    assert read_json(group.storage / "model" / "model.json")["compression"][0]["step"] == {"quantize": {"bits": 4}}


@pytest.mark.parametrize(
    ("steps", "recipe", "message"),
    [
        (
            [{"clip": {"epsilon": "0.000001", "maxAccuracyDrop": "0.01"}}],
            DEEP,
            "spec.compression[0].clip.maxAccuracyDrop: the accuracy fell by",
        ),
        ([{"squeeze": {}}], DEEP, "spec.compression[0].squeeze: unknown technique, wanted an object with one of clip"),
    ],
)
def test_what_cannot_be_done_ends_the_job_with_the_reason(start_ranks, steps, recipe, message):
    group = train(start_ranks, steps, recipe=recipe)
    assert group.wait() == [2, 2], group.output()
    assert message in group.output()
    assert not (group.storage / "model").exists()
