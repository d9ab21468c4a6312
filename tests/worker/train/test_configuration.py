"""Errors that teach: field, found, wanted."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from muster_worker import cli
from muster_worker.train.config import config_as_json, parse_config, setting
from muster_worker.train.environment import CheckpointPolicy, Environment, LearningRate
from muster_worker.train.errors import ConfigurationError
from muster_worker.train.reference import load_recipe
from muster_worker.train.strategy.layout import Chosen
from tests.worker.train.recipes import LineConfig

HERE = "tests.worker.train.recipes"


def test_a_recipe_is_found_and_configured_in_camel_case():
    recipe = load_recipe(f"{HERE}:Line", '{"batchSize": 16, "dropout": "0.5"}')
    assert recipe.config == LineConfig(batch_size=16, dropout=0.5)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("Line", "spec.recipe.name: found 'Line', wanted module:Class such as muster_worker.recipes.digits:Digits"),
        ("nowhere:Line", "no module 'nowhere' for 'nowhere:Line': it must be in the image, or in the ConfigMap"),
        (f"{HERE}.deeper:Line", "no module 'tests.worker.train.recipes.deeper'"),
        (f"{HERE}:Lime", f"module '{HERE}' has no 'Lime', wanted one of its recipes: Line, WideLine"),
        (f"{HERE}:NoRecipe", "is no recipe, wanted a class that inherits from muster_worker.train.Recipe"),
        (f"{HERE}:Unfinished", "lacks the methods datasets, loss"),
    ],
)
def test_a_wrong_reference_says_what_is_wrong(reference, message):
    with pytest.raises(ConfigurationError) as raised:
        load_recipe(reference, "{}")
    assert message in str(raised.value)


def test_a_module_that_needs_a_missing_one_says_which(tmp_path, monkeypatch):
    (tmp_path / "my_recipe.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError, match="'my_recipe' needs the module 'not_installed_anywhere'"):
        load_recipe("my_recipe:Mine", "{}")
    assert "my_recipe" not in sys.modules


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            '{"bachSize": 3}',
            "bachSize: unknown field, wanted one of batchSize, dropout, epochs, precision, samples, seed",
        ),
        ('{"epochs": "3"}', 'spec.recipe.config.epochs: found "3", wanted a whole number, at least 1'),
        ('{"epochs": true}', "spec.recipe.config.epochs: found true, wanted a whole number, at least 1"),
        ('{"epochs": 0}', "spec.recipe.config.epochs: found 0, wanted a whole number, at least 1"),
        ('{"epochs": 1.5}', "spec.recipe.config.epochs: found 1.5, wanted a whole number"),
        ('{"dropout": "much"}', 'spec.recipe.config.dropout: found "much", wanted a number, at least 0.0, at most 1.0'),
        ('{"dropout": 1.1}', "spec.recipe.config.dropout: found 1.1, wanted a number, at least 0.0, at most 1.0"),
        ('{"dropout": "nan"}', 'spec.recipe.config.dropout: found "nan", wanted a number'),
        ('{"precision": "int8"}', "wanted one of auto, float32, bfloat16, float16"),
        ("[1]", "spec.recipe.config: found [1], wanted an object"),
        ("{", "spec.recipe.config: found text that is no JSON"),
    ],
)
def test_a_wrong_config_names_field_found_and_wanted(config, message):
    with pytest.raises(ConfigurationError) as raised:
        load_recipe(f"{HERE}:Line", config)
    assert message in str(raised.value)


def test_all_faults_of_a_config_are_named_at_once():
    with pytest.raises(ConfigurationError, match=r"config\.a: .*config\.b: .*config\.epochs: "):
        parse_config(LineConfig, {"a": 1, "b": 2, "epochs": None})


@dataclass
class Limit:
    """Settings of another field of the manifest, one of which need not be given."""

    least: float | None = setting(None, minimum=0.5)


@pytest.mark.parametrize(("values", "least"), [({}, None), ({"least": "0.5"}, 0.5), ({"least": 3}, 3.0)])
def test_a_setting_need_not_be_given(values, least):
    assert parse_config(Limit, values).least == least


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"least": "0.1"}, 'spec.limit.least: found "0.1", wanted a number, at least 0.5'),
        ({"least": None}, "spec.limit.least: found null, wanted a number, at least 0.5"),
        ({"most": 1}, "spec.limit.most: unknown field, wanted one of least"),
    ],
)
def test_other_settings_than_a_recipes_are_named_by_their_own_field(values, message):
    with pytest.raises(ConfigurationError) as raised:
        parse_config(Limit, values, "spec.limit")
    assert str(raised.value) == message


def test_a_config_survives_json():
    config = LineConfig(batch_size=3, dropout=0.25)
    assert parse_config(LineConfig, config_as_json(config)) == config


RANK = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MUSTER_STORAGE": "/storage"}


def test_the_environment_of_a_job_is_read():
    environment = Environment.read(
        RANK
        | {
            "MUSTER_CHECKPOINT": '{"everySteps":100,"everySeconds":60,"keep":2,"asynchronous":true}',
            "MUSTER_OPTIMISATION": '{"learningRate":{"initial":"0.1","schedule":"plateau","metric":"validationLoss",'
            '"factor":"0.5","patience":3,"warmUpSteps":20,"minimum":"0.01"},"gradientAccumulation":4}',
            "MUSTER_STRATEGY": '{"type":"fsdp","mesh":{"tensor":2}}',
            "MUSTER_COMPRESSION": '[{"quantize":{"bits":8}}]',
        }
    )
    assert environment.checkpoint == CheckpointPolicy(100, 60.0, 2, asynchronous=True)
    assert environment.learning_rate == LearningRate(0.1, "plateau", "validationLoss", 0.5, 3, 20, 0.01)
    assert environment.strategy == Chosen("fsdp", tensor=2)
    assert environment.compression == [{"quantize": {"bits": 8}}]
    assert environment.early_stopping is None
    assert environment.gradient_accumulation == 4


def test_an_environment_without_muster_has_defaults():
    environment = Environment.read(RANK)
    assert environment.checkpoint == CheckpointPolicy()
    assert environment.learning_rate == LearningRate()
    assert environment.strategy == Chosen("ddp")
    assert (environment.gradient_accumulation, environment.attempt, environment.report) == (1, 1, None)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"MUSTER_STORAGE": ""}, "MUSTER_STORAGE: not set, wanted a directory"),
        ({"MUSTER_CHECKPOINT": "{"}, "MUSTER_CHECKPOINT: found text that is no JSON"),
        ({"MUSTER_CHECKPOINT": '{"keep":0}'}, "spec.checkpoint.keep: found 0, wanted a number, at least 1"),
        (
            {"MUSTER_OPTIMISATION": '{"learningRate":{"initial":"fast"}}'},
            'spec.optimisation.learningRate.initial: found "fast", wanted a number',
        ),
        (
            {"MUSTER_OPTIMISATION": '{"learningRate":{"factor":"2"}}'},
            "spec.optimisation.learningRate.factor: found 2, wanted a number between 0 and 1",
        ),
        (
            {"MUSTER_OPTIMISATION": '{"learningRate":{"schedule":"steps"}}'},
            "spec.optimisation.learningRate.schedule: found 'steps', wanted one of constant, plateau, cosine",
        ),
        (
            {"MUSTER_OPTIMISATION": '{"gradientAccumulation":0}'},
            "spec.optimisation.gradientAccumulation: found 0, wanted a number, at least 1",
        ),
        (
            {"MUSTER_OPTIMISATION": '{"earlyStopping":{"patience":0}}'},
            "spec.optimisation.earlyStopping.patience: found 0, wanted a number, at least 1",
        ),
        ({"MUSTER_STRATEGY": '{"type":"zero"}'}, "spec.strategy.type: found 'zero', wanted one of ddp, fsdp, tensor"),
        ({"MUSTER_STRATEGY": '{"mesh":{"tensor":-1}}'}, "spec.strategy.mesh.tensor: found -1, wanted a number"),
        ({"MUSTER_STRATEGY": '{"staleness":-1}'}, "spec.strategy.staleness: found -1, wanted a number, at least 0"),
        (
            {"MUSTER_STRATEGY": '{"gradientCompression":"zip"}'},
            "spec.strategy.gradientCompression: found 'zip', wanted one of none, int8",
        ),
        ({"MUSTER_OPTIMISATION": '{"maxGradientNorm":"x"}'}, 'spec.optimisation.maxGradientNorm: found "x", wanted a'),
    ],
)
def test_a_wrong_environment_names_the_field(variables, message):
    with pytest.raises(ConfigurationError) as raised:
        Environment.read(RANK | variables)
    assert message in str(raised.value)


def test_a_rank_outside_of_torchrun_says_what_is_missing():
    with pytest.raises(ConfigurationError, match="RANK: not set, wanted what torchrun or muster-worker sets"):
        Environment.read({"MUSTER_STORAGE": "/storage"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--processes", "0"], "argument --processes: found 0, wanted a whole number, at least 1"),
        (["--storage", "file"], "--storage is {place}/file: File exists"),
        (["--storage", "file/below"], "--storage is {place}/file/below: Not a directory"),
    ],
)
def test_a_command_line_that_cannot_be_followed_is_refused_before_anything_starts(
    tmp_path, monkeypatch, capsys, words, message
):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    try:
        code = cli.main(["train", f"{HERE}:Line", *words])
    except SystemExit as end:
        code = end.code
    assert code != 0
    assert message.format(place=tmp_path) in capsys.readouterr().err
