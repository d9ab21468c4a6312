"""Strategies: each learns what one process learns, keeps only its part, and goes on from what another has saved."""

from __future__ import annotations

import functools
import json
import signal

import pytest
import torch
from torch import nn

from muster_worker.recipes.chargpt import CharGPT, CharGPTConfig
from muster_worker.train.checkpoint import MANIFEST
from muster_worker.train.durable import read_json
from muster_worker.train.errors import ConfigurationError
from muster_worker.train.evaluation import evaluate_alone
from muster_worker.train.model_directory import load_model
from muster_worker.train.precision import Precision
from muster_worker.train.strategy.fsdp import apart
from muster_worker.train.strategy.layout import Chosen, Layout
from muster_worker.train.trainer import CPU, built
from tests.worker.train import ranks, recipes

DEEP = "tests.worker.train.recipes:Deep"
COUNTING = "tests.worker.train.recipes:Counting"
SCALED = "tests.worker.train.recipes:Scaled"
LINE = "tests.worker.train.recipes:Line"
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
"""Of float32 after fifty updates by AdamW: sums are made in another order."""

WAYS = [
    ("ddp", None, 3, 1),
    ("fsdp", None, 2, 3),
    ("fsdp", None, 3, 1),
    ("fsdp", {"data": 2, "tensor": 2}, 4, 1),
    ("tensor", None, 2, 1),
    ("tensor", {"tensor": 2}, 4, 3),
    ("pipeline", None, 2, 1),
    ("pipeline", None, 3, 3),
    ("pipeline", {"pipeline": 2}, 4, 1),
    ("pipeline", {"pipeline": 2, "tensor": 2}, 4, 1),
    ("parameterServer", {"parameterServers": 1}, 3, 1),
    ("parameterServer", {"parameterServers": 1}, 4, 3),
    ("parameterServer", {"parameterServers": 2}, 4, 1),
    ("parameterServer", {"parameterServers": 2}, 5, 1),
]
"""The type, its mesh or other fields, how many processes there are, and over how many batches they accumulate."""


def train(start_ranks, storage, count, kind, mesh=None, recipe=DEEP, **options):
    strategy = {"type": kind}
    if kind == "parameterServer":
        strategy |= mesh
        options["MUSTER_PARAMETER_SERVERS"] = ranks.addresses(mesh["parameterServers"])
    elif mesh:
        strategy["mesh"] = mesh
    return start_ranks(storage, count, recipe=recipe, MUSTER_STRATEGY=json.dumps(strategy), **options)


def finish(group):
    assert group.wait() == [0] * len(group.processes), group.output()
    return group


def weights(group):
    return load_model(group.storage / "model").weights()


def assert_same(found, wanted, **tolerance):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, **tolerance)


CONFIG = {"epochs": 7, "samples": 50, "batchSize": 7}
"""Eight updates an epoch, whose last is by one sample, which several shares cannot have."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process learns."""

    @functools.cache
    def learned(epochs=CONFIG["epochs"], accumulation=1, recipe=DEEP, rate=None, norm=None):
        storage = tmp_path_factory.mktemp("alone") / "storage"
        optimisation = {"gradientAccumulation": accumulation, "maxGradientNorm": norm}
        if rate is not None:
            optimisation["learningRate"] = {"initial": rate}
        group = ranks.start(storage, 1, recipe=recipe, config=CONFIG | {"epochs": epochs}, optimisation=optimisation)
        return weights(finish(group))

    return learned


@pytest.mark.long
@pytest.mark.parametrize(("kind", "mesh", "count", "accumulation"), WAYS, ids=str)
def test_it_learns_what_one_process_learns(start_ranks, alone, kind, mesh, count, accumulation):
    recipe = DEEP if kind == "pipeline" else COUNTING
    group = finish(
        train(
            *(start_ranks, "together", count, kind, mesh, recipe),
            config=CONFIG,
            optimisation={"gradientAccumulation": accumulation},
        )
    )
    assert_same(weights(group), alone(accumulation=accumulation, recipe=recipe), **TOLERANCE)


def test_a_pipeline_tells_the_loss_of_each_piece_once(start_ranks):
    """Torch computes the first one of each shape twice."""
    alone = finish(train(start_ranks, "alone", 1, "ddp", config=CONFIG | {"epochs": 2}))
    group = finish(train(start_ranks, "together", 2, "pipeline", config=CONFIG | {"epochs": 2}))
    assert epoch_losses(group) == pytest.approx(epoch_losses(alone), rel=1e-4)


def epoch_losses(group):
    return [line["loss"] for line in group.reports() if "validationLoss" in line and "model" not in line]


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "mesh", "count"),
    [
        ("ddp", None, 2),
        ("fsdp", {"data": 2, "tensor": 2}, 4),
        ("tensor", None, 2),
        ("pipeline", {"pipeline": 2, "tensor": 2}, 4),
        ("parameterServer", {"parameterServers": 2}, 3),
    ],
    ids=str,
)
def test_gradients_are_clipped_by_the_norm_of_all(start_ranks, alone, kind, mesh, count):
    """So short that each step is clipped: by the norm of a part, a step would be longer."""
    clipped = {"maxGradientNorm": "0.05", "learningRate": {"initial": "0.05"}}
    options = {"recipe": f"{LINE.rpartition(':')[0]}:Steep", "config": CONFIG | {"epochs": 2}}
    group = finish(train(start_ranks, "clipped", count, kind, mesh, optimisation=clipped, **options))
    wanted = alone(epochs=2, recipe=options["recipe"], rate="0.05", norm="0.05")
    assert_same(weights(group), wanted, **TOLERANCE)
    free = alone(epochs=2, recipe=options["recipe"], rate="0.05")
    assert not torch.allclose(free["last.weight"], wanted["last.weight"], rtol=0.1)


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "mesh", "count"),
    [
        ("ddp", None, 2),
        ("fsdp", None, 3),
        ("fsdp", {"data": 2, "tensor": 2}, 4),
        ("pipeline", None, 3),
        ("pipeline", {"pipeline": 2, "tensor": 2}, 4),
    ],
    ids=str,
)
@pytest.mark.parametrize("norm", [None, "0.5"])
def test_gradients_scaled_for_float16_are_those_of_one_process(start_ranks, alone, kind, mesh, count, norm):
    group = finish(
        train(
            *(start_ranks, "scaled", count, kind, mesh, SCALED),
            config=CONFIG | {"epochs": 2},
            optimisation={"maxGradientNorm": norm},
        )
    )
    assert_same(weights(group), alone(epochs=2, norm=norm), **TOLERANCE)
    scales = [read_json(path)["state"]["precision"]["scale"] for path in group.storage.rglob(MANIFEST)]
    assert set(scales) == {2.0**16}, "or a step was left out"


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "mesh", "count"),
    [
        ("ddp", None, 2),
        ("fsdp", None, 2),
        ("fsdp", {"data": 2, "tensor": 2}, 4),
        ("tensor", None, 2),
        ("pipeline", None, 3),
        ("pipeline", {"pipeline": 2, "tensor": 2}, 4),
        ("parameterServer", {"parameterServers": 3}, 4),
    ],
    ids=str,
)
def test_a_recipe_may_group_its_parameters(start_ranks, kind, mesh, count):
    """Also where a rank has nothing of a group: of three stages or servers one alone has large matrices, or two."""
    options = {"recipe": f"{recipes.__name__}:Decaying"}
    config = CONFIG | {"blocks": 1}
    wanted = finish(start_ranks("alone", 1, config=config | {"epochs": 3}, **options))
    for epochs in (1, 3):
        group = finish(train(start_ranks, "groups", count, kind, mesh, config=config | {"epochs": epochs}, **options))
    assert_same(weights(group), weights(wanted), **TOLERANCE)
    plain = finish(start_ranks("plain", 1, recipe=DEEP, config=config | {"epochs": 3}))
    assert not torch.allclose(weights(plain)["blocks.0.up.weight"], weights(wanted)["blocks.0.up.weight"], rtol=0.1)


@pytest.mark.long
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("ddp", None, 3), ("fsdp", None, 2)),
        (("fsdp", None, 3), ("ddp", None, 2)),
        (("fsdp", None, 2), ("tensor", None, 2)),
        (("tensor", None, 2), ("fsdp", {"data": 2, "tensor": 2}, 4)),
        (("fsdp", {"data": 2, "tensor": 2}, 4), ("ddp", None, 1)),
        (("fsdp", None, 2), ("pipeline", None, 3)),
        (("pipeline", {"pipeline": 2}, 4), ("tensor", None, 2)),
        (("ddp", None, 2), ("parameterServer", {"parameterServers": 2}, 4)),
        (("parameterServer", {"parameterServers": 2}, 4), ("fsdp", None, 2)),
        (("parameterServer", {"parameterServers": 1}, 3), ("parameterServer", {"parameterServers": 2}, 3)),
    ],
    ids=str,
)
def test_one_goes_on_from_what_another_has_saved(start_ranks, alone, before, after):
    long = {"config": CONFIG | {"epochs": 20}, "checkpoint": {"everySteps": 10, "asynchronous": True}}
    kind, mesh, count = before
    first = train(start_ranks, "moving", count, kind, mesh, **long)
    first.until_step(40)
    for rank in range(count):
        first.signal(rank)
    # A worker of parameter servers has nothing to save: the signal itself ends it.
    assert set(first.wait()) <= {143, 75, -signal.SIGTERM}, first.output()
    kind, mesh, count = after
    second = finish(train(start_ranks, "moving", count, kind, mesh, **long))
    assert 40 <= second.reports()[-1]["resumedFromStep"] < 160
    assert_same(weights(second), alone(epochs=20), rtol=1e-3, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "mesh", "count", "share"),
    [
        ("fsdp", None, 2, 1 / 2),
        ("fsdp", {"tensor": 2}, 4, 1 / 4),
        ("tensor", None, 2, 1 / 2),
        ("pipeline", None, 2, 1 / 2),
        ("pipeline", {"pipeline": 2, "tensor": 2}, 4, 1 / 4),
    ],
    ids=str,
)
def test_a_process_holds_its_part_alone(start_ranks, kind, mesh, count, share):
    """Of a model whose layers that the plan does not name are small."""
    config = {"epochs": 1, "width": 64, "blocks": 2}
    group = finish(train(start_ranks, "parts", count, kind, mesh, config=config))
    (line,) = (line for line in group.output().splitlines() if "bytes of parameters" in line)
    held, whole = (int(word) for word in line.split() if word.isdigit())
    assert held / whole == pytest.approx(share, rel=0.03)
    manifest = max((group.storage / "checkpoints").iterdir()) / "manifest.json"
    sizes = [record["bytes"] for name, record in read_json(manifest)["files"].items() if not name.startswith(".")]
    assert len(sizes) == count, "each writes what it holds"
    assert max(sizes) < 1.5 * sum(sizes) / count


# --- what a model keeps beside its parameters ---

KEEPING = [
    ("ddp", None, 2),
    ("fsdp", None, 2),
    ("tensor", {"tensor": 2}, 4),
    ("pipeline", {"pipeline": 2}, 4),
    ("parameterServer", {"parameterServers": 1}, 3),
]
"""Each with two shares of the data, of which each has statistics of its own."""


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "mesh", "count", "recipe"),
    [
        *((*way, "Normalised") for way in KEEPING),
        *((*way, "Reassigning") for way in KEEPING if way[0] not in ("tensor", "pipeline")),  # for it is one layer
    ],
    ids=str,
)
def test_what_is_told_of_a_model_is_so_of_the_one_that_is_published(start_ranks, kind, mesh, count, recipe):
    config = {"epochs": 2, "batchSize": 16, "samples": 48}
    group = finish(train(start_ranks, "running", count, kind, mesh, f"{recipes.__name__}:{recipe}", config=config))
    made_by = getattr(recipes, recipe)(recipes.LineConfig(batch_size=16, samples=48))
    model, _, validation = built(made_by, CPU)
    model.load_state_dict(weights(group))
    alone = evaluate_alone(made_by, model, validation, Precision(torch.float32, "cpu"), CPU)
    last = group.reports()[-1]
    assert {name: last[name] for name in alone} == pytest.approx(alone, rel=1e-4)


@pytest.mark.long
@pytest.mark.parametrize(("kind", "mesh", "count"), KEEPING, ids=str)
def test_going_on_with_running_statistics_is_as_if_nothing_had_been(start_ranks, kind, mesh, count):
    config = {"batchSize": 16, "samples": 48}
    options = {"kind": kind, "mesh": mesh, "recipe": f"{recipes.__name__}:Normalised"}
    whole = finish(train(start_ranks, "whole", count, **options, config=config | {"epochs": 4}))
    for epochs in (2, 4):
        parts = finish(train(start_ranks, "parts", count, **options, config=config | {"epochs": epochs}))
    assert parts.reports()[-1]["resumedFromStep"] == 6
    assert_same(weights(parts), weights(whole), rtol=0, atol=0)


def test_each_share_of_a_step_begins_with_the_same_buffers_whoever_computes_it(start_ranks):
    """By what they count, a layer is called or not."""
    options = {"config": {"batchSize": 16, "samples": 48, "epochs": 4}, "recipe": f"{recipes.__name__}:ReachedLate"}
    servers = {"parameterServers": 1}
    both = finish(train(start_ranks, "both", 3, "parameterServer", servers, **options))
    one = finish(train(start_ranks, "one", 3, "parameterServer", servers, **options, only=[0, 1]))
    assert_same(weights(one), weights(both), rtol=0, atol=0)


# --- parameters without a gradient ---


@pytest.mark.long
@pytest.mark.parametrize("recipe", ["ReachedLate", "Frozen"])
@pytest.mark.parametrize(
    ("kind", "mesh", "count"),
    [
        ("fsdp", None, 2),
        ("parameterServer", {"parameterServers": 1}, 3),
        ("parameterServer", {"parameterServers": 2}, 3),
    ],
    ids=str,
)
def test_going_on_before_a_gradient_reached_all_parameters_is_as_if_nothing_had_been(
    start_ranks, kind, mesh, count, recipe
):
    """A state of the optimizer that was made up for going on would count as a step."""
    config = {"batchSize": 16, "samples": 48}
    options = {"kind": kind, "mesh": mesh, "recipe": f"{recipes.__name__}:{recipe}"}
    whole = finish(train(start_ranks, "whole", count, **options, config=config | {"epochs": 6}))
    for epochs in (2, 6):
        parts = finish(train(start_ranks, "parts", count, **options, config=config | {"epochs": epochs}))
    assert parts.reports()[-1]["resumedFromStep"] == 6
    assert_same(weights(parts), weights(whole), rtol=0, atol=0)


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "mesh", "count"),
    [("fsdp", None, 2), ("pipeline", {"pipeline": 3}, 6), ("parameterServer", {"parameterServers": 3}, 4)],
    ids=str,
)
def test_a_recipe_may_leave_out_what_is_not_trained(start_ranks, kind, mesh, count):
    """Also where a rank has nothing else, as two of three stages have not."""
    options = {"recipe": f"{recipes.__name__}:TrainedAtItsEnd"}
    alone = finish(start_ranks("alone", 1, config=CONFIG | {"epochs": 3}, **options))
    for epochs in (1, 3):
        group = finish(train(start_ranks, "parts", count, kind, mesh, config=CONFIG | {"epochs": epochs}, **options))
    assert group.reports()[-1]["resumedFromStep"] == 8
    assert_same(weights(group), weights(alone), **TOLERANCE)


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "mesh", "count"),
    [
        ("tensor", {"tensor": 1, "data": 2}, 2),
        ("pipeline", {"pipeline": 2, "data": 2}, 4),
        ("parameterServer", {"parameterServers": 1}, 3),
    ],
    ids=str,
)
def test_a_share_need_not_reach_all_parameters_that_others_do(start_ranks, kind, mesh, count):
    """Each share of a batch is one point, of which one layer knows nothing."""
    options = {"recipe": f"{recipes.__name__}:Experts", "config": {"epochs": 2, "samples": 24, "batchSize": 2}}
    alone = finish(train(start_ranks, "alone", 1, "fsdp", **options))
    group = finish(train(start_ranks, "together", count, kind, mesh, **options))
    assert_same(weights(group), weights(alone), **TOLERANCE)


@pytest.mark.parametrize(("recipe", "accumulation"), [("ReachedLate", 1), ("ReachedInTurns", 2)])
@pytest.mark.parametrize("count", [1, 2])
def test_with_ddp_a_parameter_that_a_batch_does_not_reach_is_named(start_ranks, count, recipe, accumulation):
    """Where the last batch of several does not, DDP would leave out what the others have added up."""
    options = {"recipe": f"{recipes.__name__}:{recipe}", "optimisation": {"gradientAccumulation": accumulation}}
    group = train(start_ranks, "together", count, "ddp", **options)
    assert group.wait() == [2] * count, group.output()
    assert "one has not reached second.weight: wanted requires_grad_(False) for what is not to be" in group.output()
    assert "Traceback" not in group.output()
    trained = finish(train(start_ranks, "frozen", count, "ddp", recipe=f"{recipes.__name__}:Frozen"))
    assert trained.reports()[-1]["step"] == 21


def test_with_fsdp_processes_that_reach_different_parameters_are_told_so(start_ranks):
    """It would add up gradients of one parameter with those of another, where they are as long."""
    config = {"samples": 24, "batchSize": 2}
    group = train(start_ranks, "together", 2, "fsdp", recipe=f"{recipes.__name__}:Experts", config=config)
    assert group.wait() == [2, 2], group.output()
    assert "spec.strategy.type: found fsdp, with which all processes have to reach the same" in group.output()
    assert "but 0.first.weight some have not" in group.output()


# --- what cannot be laid out is told ---


def test_the_ways_make_the_layout():
    laid_out = [Layout.of(Chosen("fsdp", tensor=2), rank, 6) for rank in range(6)]
    assert [(one.data, one.tensor) for one in laid_out] == [(3, 2)] * 6
    assert [one.share for one in laid_out] == [0, 0, 1, 1, 2, 2]
    assert [one.speaks for one in laid_out] == [True, False] * 3
    assert Layout.of(Chosen("tensor"), 0, 4) == Layout("tensor", 0, 1, 4)
    assert Layout.of(Chosen("tensor", data=2), 0, 4) == Layout("tensor", 0, 2, 2)
    assert Layout.of(Chosen("pipeline", tensor=2), 0, 6) == Layout("pipeline", 0, 1, 2, 3)
    staged = [Layout.of(Chosen("pipeline", pipeline=2, tensor=2), rank, 8) for rank in range(8)]
    assert [one.share for one in staged] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [one.stage for one in staged] == [0, 0, 1, 1, 0, 0, 1, 1]
    assert [one.speaks for one in staged] == [False, False, True, False] * 2


@pytest.mark.parametrize(
    ("chosen", "ranks", "message"),
    [
        (Chosen("fsdp", tensor=2), 3, "spec.strategy.mesh: found 1 (data) x 1 (pipeline) x 2 (tensor) for 3 processes"),
        (Chosen("ddp", data=2), 3, "spec.strategy.mesh: found 2 (data) x 1 (pipeline) x 1 (tensor) for 3 processes"),
        (Chosen("fsdp", pipeline=2), 2, "spec.strategy.mesh.pipeline: found 2 with type fsdp, wanted 1, or type pip"),
        (Chosen("ddp", tensor=2), 2, "spec.strategy.mesh.tensor: found 2 with type ddp, wanted 1, or type fsdp or"),
    ],
)
def test_ways_that_do_not_fit_the_processes_are_named(chosen, ranks, message):
    with pytest.raises(ConfigurationError) as raised:
        Layout.of(chosen, 0, ranks)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "mesh", "count", "samples", "batch"),
    [
        ("ddp", None, 2, 50, 8),
        ("fsdp", None, 3, 50, 15),
        ("pipeline", None, 2, 50, 23),
        ("pipeline", {"pipeline": 2}, 4, 48, 8),
        ("parameterServer", {"parameterServers": 1}, 3, 50, 8),
    ],
    ids=str,
)
def test_a_batch_that_leaves_a_process_one_sample_of_which_a_layer_makes_no_mean_is_named(
    start_ranks, kind, mesh, count, samples, batch
):
    config = {"samples": samples, "batchSize": batch}
    only = [0] if kind == "parameterServer" else None
    group = train(start_ranks, "alone", count, kind, mesh, f"{recipes.__name__}:Normalised", config=config, only=only)
    assert set(group.wait()) == {2}
    assert (
        f"spec.recipe.config.batchSize: found {batch}, by which a process computes one of {samples}" in group.output()
    )
    assert "1 (BatchNorm1d) has no statistics of one" in group.output()
    assert not any("step" in line for line in group.reports())


@pytest.mark.parametrize(("kind", "samples", "batch"), [("ddp", 52, 8), ("pipeline", 45, 10)])
def test_two_samples_are_enough_for_a_mean(start_ranks, kind, samples, batch):
    config = {"samples": samples, "batchSize": batch, "epochs": 1}
    finish(train(start_ranks, "together", 2, kind, recipe=f"{recipes.__name__}:Normalised", config=config))


def test_a_recipe_without_a_plan_is_named(start_ranks):
    group = train(start_ranks, "storage", 2, "tensor", recipe=LINE)
    assert set(group.wait()) == {2}
    assert "spec.strategy.mesh.tensor: found 2, wanted 1, or a recipe that says how: " in group.output()


@pytest.mark.parametrize(("kind", "mesh"), [("tensor", None), ("fsdp", {"tensor": 2})], ids=str)
def test_a_plan_that_divides_what_layers_share_is_named(start_ranks, kind, mesh):
    """Each would go on with a weight of its own."""
    group = train(start_ranks, "storage", 2, kind, mesh, f"{recipes.__name__}:SharingALayer")
    assert set(group.wait()) == {2}
    assert "the recipe's tensor_plan divides what layers share, 0.weight and 5.weight, wanted" in group.output()


@pytest.mark.parametrize(
    ("recipe", "count", "message"),
    [
        ("Counting", 2, "no layer of the recipe's pipeline_layers has seen"),
        ("Lost", 2, "no layer of the recipe's pipeline_layers has blocks.0.norm.weight"),
        ("Tied", 2, "two stages would share first.weight, wanted a stage of its own"),
        ("Deep", 6, "spec.strategy.mesh.pipeline: found 6, wanted at most 5: so many layers has tests.worker"),
        ("Line", 2, "spec.strategy.mesh.pipeline: found 2, wanted 1, or a recipe that says how: tests.worker"),
    ],
)
def test_layers_that_are_no_pipeline_are_named(start_ranks, recipe, count, message):
    group = train(start_ranks, "storage", count, "pipeline", recipe=f"tests.worker.train.recipes:{recipe}")
    assert set(group.wait()) == {2}
    assert message in group.output()


def test_parts_are_not_kept_in_directories_of_different_pods(start_ranks):
    group = train(start_ranks, ["first", "second"], 2, "fsdp")
    assert set(group.wait()) == {2}
    assert "spec.storage: each pod has a directory of its own, and type fsdp leaves no pod with" in group.output()


def test_layers_that_share_a_weight_go_on_sharing_it(start_ranks):
    options = {"recipe": f"{recipes.__name__}:SharingALayer", "config": {"samples": 48, "batchSize": 16}}
    alone = finish(train(start_ranks, "alone", 1, "ddp", **options))
    group = finish(train(start_ranks, "together", 2, "fsdp", **options))
    assert torch.equal(weights(group)["0.weight"], weights(group)["5.weight"])
    assert_same(weights(group), weights(alone), **TOLERANCE)


def test_small_layers_are_gathered_with_the_whole():
    text = CharGPT(CharGPTConfig()).model()
    assert apart(text) == list(text.blocks), "of its head neither the norm nor the outputs"
    mixed = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Sequential(nn.Linear(64, 9), nn.LayerNorm(9)))
    assert apart(mixed) == [mixed[0], mixed[2][0]]
    many = nn.Sequential(nn.Embedding(1000, 8), *(nn.Linear(8, 8) for _ in range(50)))
    assert len(apart(many)) == 51 - 11, "together they are no small part: 11 of 72 are a tenth of 8000"
    assert apart(nn.Linear(2, 2)) == apart(nn.Sequential(nn.ReLU())) == []
