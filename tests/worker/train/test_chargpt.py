"""The recipe that learns text: it learns, looks back only, and is divided in every way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from muster_worker.recipes.chargpt import VOCABULARY, CharGPT, CharGPTConfig, decoded, encoded, load_text
from muster_worker.train.errors import ConfigurationError
from muster_worker.train.model_directory import load_model

CHARGPT = "muster_worker.recipes.chargpt:CharGPT"
SMALL = {"layers": 2, "heads": 2, "width": 16, "context": 16, "characters": 4000, "epochs": 1, "batchSize": 16}


@given(st.text(VOCABULARY))
def test_a_text_survives_its_tokens(text):
    assert decoded(encoded(text).tolist()) == text


def test_a_character_that_it_does_not_know_is_read_as_a_question_mark():
    assert decoded(encoded("naïve").tolist()) == "na?ve"


def test_the_text_is_there_and_mostly_known():
    text = load_text()
    assert len(text) > 400_000
    assert sum(character in VOCABULARY for character in text) > 0.995 * len(text)


def test_samples_are_the_text_and_what_follows():
    torch.manual_seed(0)
    training, validation = CharGPT(CharGPTConfig(characters=4000, context=16)).datasets()
    assert (len(training), len(validation)) == (237, 12)
    for tokens, following in (training[0], validation[0]):
        assert torch.equal(tokens[1:], following[:-1])
        assert decoded(tokens.tolist()) in load_text()[:4000]


def test_no_character_is_known_before_its_time():
    model = CharGPTConfig(layers=2, heads=2, width=16, context=16)
    model = CharGPT(model).model().eval()
    tokens = torch.randint(len(VOCABULARY), (2, 16))
    changed = tokens.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % len(VOCABULARY)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[:, :9], model(changed)[:, :9])
        assert not torch.allclose(model(tokens)[:, 9], model(changed)[:, 9])


def test_a_width_that_heads_do_not_divide_is_named():
    with pytest.raises(ConfigurationError, match=r"config.width: found 10, wanted a multiple of heads, which are 4"):
        CharGPT(CharGPTConfig(width=10))


def train(start_ranks, storage, count, strategy="{}", **config):
    group = start_ranks(storage, count, recipe=CHARGPT, config=SMALL | config, MUSTER_STRATEGY=strategy)
    assert group.wait() == [0] * count, group.output()
    return group


def test_it_learns(start_ranks):
    group = train(start_ranks, "storage", 2, characters=40_000, epochs=2, layers=1, width=32)
    first, *_, last = (line["validationLoss"] for line in group.reports() if "validationLoss" in line)
    assert last < first - 0.1
    assert last < 2.6, "of 4.6 for guessing"
    description = load_model(group.storage / "model").description
    assert description["programError"] is None
    assert description["inputs"] == [{"name": "tokens", "datatype": "INT64", "shape": [-1, -1]}]
    assert description["outputs"] == [{"name": "output", "datatype": "FP32", "shape": [-1, -1, len(VOCABULARY)]}]
    assert description["generation"] == {"context": 16}


@pytest.mark.long
@pytest.mark.parametrize("strategy", ['{"type": "fsdp"}', '{"type": "tensor"}', '{"type": "pipeline"}'])
def test_every_strategy_learns_the_same(start_ranks, strategy):
    alone = load_model(train(start_ranks, "alone", 1).storage / "model").weights()
    found = load_model(train(start_ranks, "divided", 2, strategy).storage / "model").weights()
    for name, tensor in alone.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4)
