"""Ranks that train together: the same result whatever the world size, interruption or fault."""

from __future__ import annotations

import json
import shutil
import signal

import pytest
import torch

from muster_worker.train.durable import read_json
from muster_worker.train.model_directory import load_model, summary
from muster_worker.train.sample_log import surviving_epochs

ENDLESS = {"epochs": 100_000}
RECIPES = "tests.worker.train.recipes"


def weights(group):
    return load_model(group.storage / "model").weights()


def assert_same(found, wanted, **tolerance):
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, **tolerance)


def steps_on_disk(group):
    return sorted(path.name for path in (group.storage / "checkpoints").iterdir())


def finish(group):
    assert group.wait() == [0] * len(group.processes), group.output()
    return group


def interrupted(group, step):
    """All ranks get SIGTERM once `step` is done; gives the step whose checkpoint they left."""
    group.until_step(step)
    for rank in range(len(group.processes)):
        group.signal(rank)
    codes = group.wait()
    assert set(codes) <= {143, 75}, group.output()
    return int(steps_on_disk(group)[-1].removeprefix("step-"))


# --- the same learning at any world size ---


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_parameters_do_not_depend_on_the_world_size(start_ranks, accumulation):
    # 50 samples in batches of 7: the last has one sample, which three ranks cannot share.
    options = {"config": {"batchSize": 7, "epochs": 2}, "optimisation": {"gradientAccumulation": accumulation}}
    alone = weights(finish(start_ranks("alone", 1, **options)))
    together = [weights(finish(start_ranks(f"together-{count}", count, **options))) for count in (2, 3)]
    for found in together:
        assert_same(found, alone, rtol=1e-5, atol=1e-6)


def test_metrics_are_exact_at_any_world_size(start_ranks):
    histories = []
    for count in (1, 3):
        group = finish(start_ranks(f"storage-{count}", count))
        manifest = read_json(max((group.storage / "checkpoints").iterdir()) / "manifest.json")
        histories.append(manifest["state"]["progress"]["history"])
    assert [set(entry) for entry in histories[0]] == [
        {"epoch", "step", "loss", "validationLoss", "validationAccuracy"}
    ] * 3
    for alone, together in zip(*histories, strict=True):
        assert together == pytest.approx(alone, rel=1e-5)


# --- going on ---


@pytest.mark.long
@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_interrupted_training_ends_like_an_uninterrupted_one(start_ranks, asynchronous):
    """Bit for bit: with dropout, momentum, a plateau schedule, and an interruption in the middle of an epoch."""
    options = {
        "config": {"epochs": 20, "dropout": 0.2, "samples": 300},
        "optimisation": {"learningRate": {"schedule": "plateau", "patience": 0}},
        "checkpoint": {"everySteps": 50, "asynchronous": asynchronous},
    }
    whole = finish(start_ranks("whole", 2, **options))
    first = start_ranks("interrupted", 2, **options)
    left_at = interrupted(first, step=150)
    assert 150 <= left_at < 20 * 38
    second = finish(start_ranks("interrupted", 2, **options))
    assert second.reports()[-1]["resumedFromStep"] == left_at
    assert_same(weights(second), weights(whole), rtol=0, atol=0)
    assert second.reports()[-1]["learningRate"] == whole.reports()[-1]["learningRate"] < 0.05


def test_training_goes_on_at_another_world_size(start_ranks, tmp_path):
    # A small learning rate: a large one amplifies the rounding that the order of sums decides.
    options = {
        "config": {"epochs": 20, "samples": 301},
        "optimisation": {"learningRate": {"initial": "0.002"}},
        "MUSTER_SAMPLE_LOG": str(tmp_path / "samples"),
    }
    whole = finish(start_ranks("whole", 1, config=options["config"], optimisation=options["optimisation"]))
    interrupted(start_ranks("changing", 3, **options), step=100)
    interrupted(start_ranks("changing", 1, **options), step=300)
    last = finish(start_ranks("changing", 2, **options))
    assert_same(weights(last), weights(whole), rtol=1e-4, atol=1e-5)
    epochs = surviving_epochs(tmp_path / "samples")
    assert sorted(epochs) == list(range(1, 21))
    for samples in epochs.values():
        assert sorted(samples) == list(range(301))


@pytest.mark.long
def test_after_a_rank_was_killed_no_sample_of_the_surviving_history_is_used_twice_or_left_out(start_ranks, tmp_path):
    options = {
        "config": {"epochs": 20, "samples": 501},
        "checkpoint": {"everySteps": 30, "asynchronous": True},
        "MUSTER_SAMPLE_LOG": str(tmp_path / "samples"),
    }
    group = start_ranks("storage", 2, **options)
    group.until_step(200)
    group.signal(1, signal.SIGKILL)
    codes = group.wait()
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, 75, 143)
    second = finish(start_ranks("storage", 2, **options))
    resumed = next(line["resumedFromStep"] for line in reversed(second.reports()) if "resumedFromStep" in line)
    assert resumed >= 170
    assert resumed % 30 == 0
    epochs = surviving_epochs(tmp_path / "samples")
    assert sorted(epochs) == list(range(1, 21))
    for samples in epochs.values():
        assert sorted(samples) == list(range(501))


def test_training_that_is_complete_ends_at_once(start_ranks):
    first = finish(start_ranks())
    written = (first.storage / "model" / "model.json").stat().st_mtime_ns
    model = first.reports()[-1]["model"]
    second = finish(start_ranks())
    assert (second.storage / "model" / "model.json").stat().st_mtime_ns == written
    last = second.reports()[-1]
    assert last["step"] == last["totalSteps"] == last["resumedFromStep"] == 21
    assert last["model"] == model


def test_a_missing_model_is_made_from_the_final_checkpoint(start_ranks):
    first = finish(start_ranks())
    trained = weights(first)
    (first.storage / "model" / "model.json").unlink()
    assert_same(weights(finish(start_ranks())), trained, rtol=0, atol=0)


@pytest.mark.parametrize("removed", ["checkpoints", "checkpoints/step-00000021"])
def test_a_model_of_an_earlier_training_is_not_taken_for_the_one_that_was_trained_now(start_ranks, removed):
    options = {"count": 1, "checkpoint": {"everySteps": 7}}
    first = finish(start_ranks(**options))
    before = weights(first)
    shutil.rmtree(first.storage / removed)
    second = finish(start_ranks(**options, optimisation={"learningRate": {"initial": "0.001"}}))
    assert not torch.equal(weights(second)["0.weight"], before["0.weight"])
    final = max((second.storage / "checkpoints").iterdir())
    origin = load_model(second.storage / "model").description["origin"]
    assert origin["checkpoint"] == read_json(final / "manifest.json")["id"]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_model_that_has_diverged_is_not_published_and_nobody_tries_again(start_ranks, strategy):
    recipe = "tests.worker.train.recipes:Diverging"
    group = start_ranks(recipe=recipe, MUSTER_STRATEGY=json.dumps({"type": strategy}))
    assert group.wait() == [2, 2], group.output()
    said = "training diverged: 0.weight is not finite after step 21: lower spec.optimisation.learningRate.initial"
    assert group.output().count(f"error: {said}") == 2
    assert any(line.get("error", "").startswith(said) for line in group.reports())
    assert not (group.storage / "model").exists()


def test_more_epochs_go_on_from_fewer(start_ranks):
    finish(start_ranks(config={"epochs": 2}))
    second = finish(start_ranks(config={"epochs": 4}))
    assert second.reports()[-1]["resumedFromStep"] == 14
    assert load_model(second.storage / "model").description["origin"]["epoch"] == 4


def test_a_broken_checkpoint_is_skipped_said_and_replaced(start_ranks):
    group = start_ranks(config=ENDLESS, checkpoint={"everySteps": 20})
    left_at = interrupted(group, step=60)
    newest = group.storage / "checkpoints" / f"step-{left_at:08d}"
    part = newest / "__1_0.distcp"
    part.write_bytes(part.read_bytes()[:-1])
    second = start_ranks(config=ENDLESS, checkpoint={"everySteps": 20})
    interrupted(second, step=left_at + 40)
    assert f"skipped the broken checkpoint {newest}: __1_0.distcp has" in second.output()
    reported = [line for line in second.reports() if "brokenCheckpoints" in line]
    assert [line["brokenCheckpoints"] for line in reported] == [1]
    assert reported[0]["resumedFromStep"] == (left_at - 1) // 20 * 20


@pytest.mark.long
@pytest.mark.parametrize("lost", [0, 1])
def test_without_shared_storage_a_pod_that_has_no_checkpoint_gets_it_from_one_that_has(start_ranks, tmp_path, lost):
    plateau = {"schedule": "plateau", "metric": "validationLoss", "factor": "0.5", "patience": 2}
    options = {
        "config": {"epochs": 60},
        "checkpoint": {"everySteps": 20, "keep": 5},
        "optimisation": {"learningRate": plateau},
    }
    pods = ["pod-0", "pod-1"]
    whole = finish(start_ranks("whole", 2, **options))
    left_at = interrupted(start_ranks(pods, 2, **options), step=100)
    shutil.rmtree(tmp_path / f"pod-{lost}")
    second = finish(start_ranks(pods, 2, **options))
    assert second.reports()[-1]["resumedFromStep"] == left_at
    assert_same(weights(second), weights(whole), rtol=0, atol=0)
    kept = [sorted(path.name for path in (tmp_path / pod / "checkpoints").iterdir()) for pod in pods]
    assert kept[0][-1] == kept[1][-1]


def test_without_shared_storage_one_whole_checkpoint_is_enough(start_ranks, tmp_path):
    options = {"config": {"epochs": 60}, "checkpoint": {"everySteps": 20, "keep": 5}}
    pods = ["pod-0", "pod-1"]
    left_at = interrupted(start_ranks(pods, 2, **options), step=100)
    newest = tmp_path / "pod-1" / "checkpoints" / f"step-{left_at:08d}"
    (newest / "manifest.json").unlink()
    second = finish(start_ranks(pods, 2, **options))
    assert second.reports()[-1]["resumedFromStep"] == left_at
    assert "skipped the broken checkpoint" in second.output()


def test_checkpoints_of_another_job_are_refused(start_ranks):
    finish(start_ranks())
    group = start_ranks(config={"batchSize": 16})
    assert group.wait() == [2, 2]
    assert "were made with config.batchSize = 8, this job has 16: give the job another path" in group.output()


# --- starting from another model ---


def initial(group):
    directory = group.storage / "model"
    checksum = summary(load_model(directory)).sha256
    return {"MUSTER_INITIAL_MODEL": str(directory), "MUSTER_INITIAL_MODEL_SHA256": checksum}


@pytest.mark.long
def test_a_job_starts_from_the_model_it_names_and_resumes_from_its_own_checkpoints(start_ranks):
    first = finish(start_ranks("first", 1, config={"epochs": 20}))
    options = {"config": {"epochs": 60}, "checkpoint": {"everySteps": 20}, **initial(first)}
    whole = finish(start_ranks("whole", 2, **options))
    anew = finish(start_ranks("anew", 2, config={"epochs": 60}))
    losses = [next(line["loss"] for line in group.reports() if "loss" in line) for group in (first, whole, anew)]
    assert losses[1] < losses[2] / 2, losses
    left_at = interrupted(start_ranks("broken-off", 2, **options), step=60)
    second = finish(start_ranks("broken-off", 2, **options))
    assert second.reports()[-1]["resumedFromStep"] == left_at
    assert_same(weights(second), weights(whole), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("recipe", "checksum", "sentence"),
    [
        ("tests.worker.train.recipes:Line", "0" * 64, f"wanted {'0' * 64}: it was replaced"),
        (
            "tests.worker.train.recipes:WideLine",
            "",
            "its 0.bias has the shape (5,), wanted (6,) as in the recipe's model",
        ),
    ],
)
def test_a_model_that_is_not_the_one_or_does_not_fit_ends_the_job_with_the_reason(
    start_ranks, recipe, checksum, sentence
):
    first = finish(start_ranks("first", 1))
    given = initial(first) | {"MUSTER_INITIAL_MODEL_SHA256": checksum}
    group = start_ranks("second", 2, recipe=recipe, **given)
    assert group.wait() == [2, 2]
    assert "spec.initialModel: " in group.output()
    assert sentence in group.output()


def test_a_quantized_model_is_none_to_start_from(start_ranks):
    first = finish(start_ranks("first", 1, MUSTER_COMPRESSION=json.dumps([{"quantize": {"bits": 8}}])))
    group = start_ranks("second", 2, **initial(first))
    assert group.wait() == [2, 2]
    assert "spec.initialModel: its weights are quantized, wanted floating point numbers" in group.output()


# --- leaving ---


def test_on_sigterm_to_one_rank_all_save_at_the_same_step_and_leave(start_ranks):
    group = start_ranks(config=ENDLESS, count=3)
    group.until_step(20)
    group.signal(1)
    assert group.wait() == [75, 143, 75], group.output()
    (only,) = steps_on_disk(group)
    step = int(only.removeprefix("step-"))
    assert step >= 20
    saved = [line["checkpoint"] for line in group.reports() if "checkpoint" in line]
    assert saved[-1]["step"] == step
    assert saved[-1]["path"] == f"checkpoints/{only}"


def test_on_sigterm_nobody_leaves_before_each_pod_has_the_checkpoint(start_ranks, tmp_path):
    """The first one's end is the end of the group: the others would not have the time that their storage takes."""
    group = start_ranks(["pod-0", "pod-1"], recipe=f"{RECIPES}:SlowToWrite", config=ENDLESS)
    group.until_step(20)
    group.signal(0)
    group.processes[0].join(60)
    kept = [[path.name for path in (tmp_path / pod / "checkpoints").iterdir()] for pod in ("pod-0", "pod-1")]
    assert kept[0] == kept[1]
    assert kept[0][0].startswith("step-")
    assert group.wait() == [143, 75], group.output()


def test_on_sigterm_to_all_ranks_all_say_so(start_ranks):
    group = start_ranks(config=ENDLESS)
    group.until_step(20)
    # Frozen first: neither rank can have left before its own signal has come.
    for rank in (0, 1):
        group.signal(rank, signal.SIGSTOP)
    for rank in (0, 1):
        group.signal(rank)
        group.signal(rank, signal.SIGCONT)
    assert group.wait() == [143, 143], group.output()


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "pipeline"])
def test_on_sigterm_in_an_evaluation_nobody_waits_for_its_end(start_ranks, strategy):
    """It is made again by those who go on."""
    options = {
        "recipe": f"{RECIPES}:SlowToMeasure",
        "config": {"epochs": 2, "batchSize": 2, "samples": 8},
        "optimisation": {"learningRate": {"schedule": "plateau", "patience": 0}},
        "MUSTER_STRATEGY": json.dumps({"type": strategy}),
    }
    group = start_ranks(**options, PAUSE="1")
    group.until(lambda: group.output().count("measuring") > 2, "evaluation, after each has measured one sample")
    group.signal(1)
    assert group.wait() == [75, 143], group.output()
    assert steps_on_disk(group) == ["step-00000004"]
    assert not any("validationLoss" in line for line in group.reports())
    second, whole = finish(start_ranks(**options)), finish(start_ranks("whole", **options))
    assert_same(weights(second), weights(whole), rtol=0, atol=0)
    told = [[line["validationLoss"] for line in one.reports() if "validationLoss" in line] for one in (second, whole)]
    assert told[0] == told[1]


# --- checkpoints by policy ---


def test_checkpoints_are_made_by_steps_and_only_the_newest_are_kept(start_ranks):
    group = finish(start_ranks(config={"epochs": 3}, checkpoint={"everySteps": 4, "keep": 2}))
    assert steps_on_disk(group) == ["step-00000020", "step-00000021"]
    saved = [line["checkpoint"]["step"] for line in group.reports() if "checkpoint" in line]
    assert saved == [4, 8, 12, 16, 20, 21]


def test_checkpoints_are_made_by_the_clock_of_rank_0(start_ranks):
    group = start_ranks(config=ENDLESS, checkpoint={"everySeconds": 0.2, "keep": 100})
    group.until(lambda: sum("checkpoint" in line for line in group.reports()) >= 2, "second checkpoint")
    interrupted(group, step=1)
    assert len(steps_on_disk(group)) >= 3


# --- reports and errors ---


def test_progress_is_reported(start_ranks):
    group = finish(start_ranks(config={"epochs": 3}))
    machines, first, *_, last = group.reports()
    assert set(machines) == {"preflight"}
    assert (first["step"], first["totalSteps"], first["epoch"], first["resumedFromStep"]) == (1, 21, 1, 0)
    assert {"loss", "learningRate", "samplesPerSecond"} <= set(first)
    evaluated = [line for line in group.reports() if "validationLoss" in line]
    assert [line["step"] for line in evaluated[:3]] == [7, 14, 21]
    assert (last["epoch"], last["step"]) == (3, 21)
    assert all(len(json.dumps(line)) < 4096 for line in group.reports())


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ({"config": {"bachSize": 3}}, 2, "spec.recipe.config.bachSize: unknown field"),
        ({"recipe": "nowhere:Line"}, 2, "no module 'nowhere'"),
        ({"config": {"samples": 0}}, 2, "its training set is empty, wanted at least one sample"),
        (
            {"recipe": "tests.worker.train.recipes:ValidatedByNothing"},
            2,
            "its validation set is empty, wanted at least one sample, or None where there are none",
        ),
        (
            {"recipe": "tests.worker.train.recipes:Streamed"},
            2,
            "recipes:Streamed: its training set is a Stream, which is read one by one, wanted one that has a length",
        ),
        (
            {"recipe": "tests.worker.train.recipes:Named"},
            2,
            "the recipe's datasets: a sample is a dict of 2, wanted a pair: (input, target)",
        ),
        (
            {"recipe": "tests.worker.train.recipes:NamedInputs"},
            2,
            "recipes:NamedInputs: a sample's input is a dict, wanted a tensor, or a tuple of those that forward takes",
        ),
        (
            {"recipe": "tests.worker.train.recipes:SingleSet"},
            2,
            "recipes:SingleSet: its datasets() gives a TensorDataset, wanted a pair: samples for training",
        ),
        (
            {"recipe": "tests.worker.train.recipes:TwoFold"},
            2,
            "the model's output_1 is NoneType, wanted a tensor of numbers",
        ),
        (
            {"recipe": "tests.worker.train.recipes:UnvalidatedTwoFold"},
            2,
            "the model's output_1 is NoneType, wanted a tensor of numbers",
        ),
        (
            {"recipe": "tests.worker.train.recipes:MeasuredApart"},
            2,
            "recipes:MeasuredApart: its validationError has the shape [1], wanted one number",
        ),
        (
            {"recipe": "tests.worker.train.recipes:LostApart"},
            2,
            "recipes:LostApart: its validationLoss has the shape [1, 1], wanted one number",
        ),
        (
            {"recipe": "tests.worker.train.recipes:LostAsANumber"},
            2,
            "recipes:LostAsANumber: its loss() gives a float, wanted the tensor",
        ),
        (
            {"recipe": "tests.worker.train.recipes:MeasuredAsText"},
            2,
            "recipes:MeasuredAsText: its validationError is a str, wanted one number",
        ),
        (
            {"recipe": "tests.worker.train.recipes:MeasuredByNothing"},
            2,
            "recipes:MeasuredByNothing: its metrics() gives a NoneType, wanted a dict of numbers by name",
        ),
        (
            {"recipe": "tests.worker.train.recipes:Untrained"},
            2,
            "recipes:Untrained: no parameter of its model is trained, wanted some with requires_grad",
        ),
        (
            {"recipe": "tests.worker.train.recipes:SecondOrder"},
            2,
            "recipes:SecondOrder: found the optimizer LBFGS, which computes the loss again and again in a step",
        ),
        (
            {"optimisation": {"learningRate": {"schedule": "plateau", "metric": "validationAcuracy"}}},
            2,
            "learningRate.metric: found validationAcuracy, wanted one of loss, validationAccuracy, validationLoss",
        ),
        (
            {
                "recipe": "tests.worker.train.recipes:Unvalidated",
                "optimisation": {"learningRate": {"schedule": "plateau"}},
            },
            2,
            "spec.optimisation.learningRate.metric: found validationLoss, wanted one of loss",
        ),
        ({"MUSTER_BACKEND": "nccl"}, 2, "spec.backend: found nccl, but this pod has no GPU"),
        ({"config": {"precision": "float16"}}, 2, "found float16, which needs a GPU"),
        ({"MUSTER_STORAGE": "/proc/storage"}, 1, "MUSTER_STORAGE: /proc/storage cannot be written"),
    ],
)
def test_what_is_wrong_is_said_on_every_rank_and_reported(start_ranks, options, code, message):
    group = start_ranks(**options)
    assert group.wait() == [code, code], group.output()
    assert message in group.output()
    assert any(message in line.get("error", "") for line in group.reports())
    assert not any("step" in line for line in group.reports()), "it is said before anything is trained"
    assert "Traceback" not in group.output()


def test_without_validation_samples_training_goes_without_evaluation(start_ranks):
    group = finish(start_ranks(recipe="tests.worker.train.recipes:Unvalidated"))
    assert set(load_model(group.storage / "model").description["metrics"]) == {"loss"}


def test_a_layer_that_computes_its_weight_is_published(start_ranks):
    quantized = json.dumps([{"quantize": {"bits": 8}}])
    group = finish(start_ranks(count=1, recipe=f"{RECIPES}:Normed", MUSTER_COMPRESSION=quantized))
    assert load_model(group.storage / "model").description["programError"] is None


def test_targets_may_be_named_tuples_and_metrics_plain_numbers(start_ranks):
    plain, named = finish(start_ranks("plain", 1)), finish(start_ranks("named", 2, recipe=f"{RECIPES}:Weighed"))
    assert_same(weights(named), weights(plain), rtol=1e-5, atol=1e-6)
    metrics = [load_model(group.storage / "model").description["metrics"] for group in (plain, named)]
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-5)


def test_a_storage_that_runs_full_is_told_apart_from_a_crash(start_ranks):
    group = start_ranks(recipe="tests.worker.train.recipes:NoRoom", checkpoint={"everySteps": 5})
    assert group.wait() == [1, 1], group.output()
    assert "the checkpoint of step 5 could not be written to" in group.output()
    assert "File too large" in group.output()
    assert steps_on_disk(group) == []


def test_bfloat16_trains_on_a_cpu_too(start_ranks):
    group = finish(start_ranks(config={"precision": "bfloat16", "epochs": 20}))
    assert group.reports()[-1]["validationAccuracy"] > 0.8
    assert all(tensor.dtype == torch.float32 for tensor in weights(group).values())


@pytest.mark.gpu
def test_on_a_gpu_it_trains_in_mixed_precision_and_goes_on_from_its_checkpoint(start_ranks):
    options = {"config": {"epochs": 40}, "MUSTER_BACKEND": "nccl"}
    whole = finish(start_ranks("whole", 1, **options))
    interrupted(start_ranks("interrupted", 1, **options), step=50)
    second = finish(start_ranks("interrupted", 1, **options))
    assert second.reports()[-1]["validationAccuracy"] > 0.8
    assert_same(weights(second), weights(whole), rtol=1e-3, atol=1e-4)
