"""Which token is chosen: by rules of each row's own, and by one number."""

from __future__ import annotations

import math

import pytest
import torch

from muster_worker.serve.generate import sampling
from muster_worker.serve.generate.parameters import Parameters
from muster_worker.serve.generate.sampling import Draws, Rules, choose

PROBABILITIES = torch.tensor([0.1, 0.4, 0.2, 0.3])  # by likelihood: 1, 3, 2, 0


def rules(number=0.0, **given):
    draws = Draws(0)
    draws.number = number
    return Rules.of([Parameters(**given)], [draws])


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        ({"temperature": 0.0}, [1] * 8),
        ({}, [0, 1, 1, 1, 2, 2, 3, 3]),  # 0.1, 0.5, 0.7
        ({"top_k": 1}, [1] * 8),
        ({"top_k": 2}, [1, 1, 1, 1, 1, 3, 3, 3]),  # 4 of 7
        ({"top_k": 2, "top_p": 0.5}, [1] * 8),
        ({"top_k": 9}, [1, 1, 1, 1, 3, 3, 2, 0]),  # the likeliest first: 0.4, 0.7, 0.9
        ({"top_p": 0.4}, [1] * 8),
        ({"top_p": 0.5}, [1, 1, 1, 1, 1, 3, 3, 3]),
        ({"top_p": 0.0}, [1] * 8),
        ({"temperature": 1e-3}, [1] * 8),
    ],
    ids=str,
)
def test_the_number_decides_among_the_likeliest(given, tokens):
    numbers = [0.05, 0.15, 0.25, 0.35, 0.55, 0.65, 0.85, 0.95]
    logits = PROBABILITIES.log()[None]
    assert [choose(logits, rules(number, **given))[0].item() for number in numbers] == tokens


def test_rows_do_not_depend_on_one_another_and_tell_what_the_model_has():
    given = [rules(0.95), rules(temperature=0.0), rules(0.5, temperature=2.0, top_k=3)]
    logits = PROBABILITIES.log().expand(3, -1)
    tokens, logprobs = choose(logits, Rules(*(torch.cat(column) for column in zip(*given, strict=True))))
    assert tokens.tolist() == [choose(logits[:1], one)[0].item() for one in given]
    assert logprobs.exp().tolist() == pytest.approx(PROBABILITIES[tokens].tolist())


RULES = [
    {"top_k": 5},
    {"top_k": 200},
    {"top_p": 0.2},
    {"top_p": 0.95},
    {"top_k": 40, "top_p": 0.7},
    {"top_k": 3000, "top_p": 0.99},
    {"top_p": 0.9, "temperature": 3.0},
]


@pytest.mark.parametrize("given", RULES, ids=str)
def test_it_is_the_same_whether_some_candidates_are_looked_at_or_all(given, monkeypatch):
    logits = torch.randn(16, 2000, generator=torch.Generator().manual_seed(1)) * 3
    asked = Rules.of([Parameters(**given)] * 16, [Draws(seed) for seed in range(16)])
    found = []
    for candidates in (1, 64, 2000):
        monkeypatch.setattr(sampling, "CANDIDATES", candidates)
        found.append(choose(logits, asked)[0].tolist())
    assert found[0] == found[1] == found[2]
    assert len(set(found[0])) > 4


def test_no_more_are_drawn_from_than_may_be_though_all_are_alike():
    logits = torch.zeros(1, 5000)
    logits[0, 100:] = 1.0
    tokens = {choose(logits, rules(number / 50, top_k=7))[0].item() for number in range(50)}
    assert tokens <= set(range(100, 5000))
    assert len(tokens) == 7


@pytest.mark.parametrize("row", [[0.0, 1.0, math.nan, 2.0], [0.0, math.inf, 1.0, 2.0], [-math.inf] * 4], ids=str)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_without_a_largest_number_has_none_and_the_others_have(temperature, row):
    logits = PROBABILITIES.log().repeat(2, 1)
    logits[0] = torch.tensor(row)
    given = Rules(*(column.repeat(2) for column in rules(0.05, temperature=temperature)))
    tokens, (wrong, right) = choose(logits, given)
    assert math.isnan(wrong)
    assert math.exp(right) == pytest.approx(PROBABILITIES[tokens[1]].item())


def test_a_seed_draws_the_same_numbers():
    first, second, other = Draws(5), Draws(5), Draws(6)
    for _ in range(3):
        assert first.number == second.number != other.number
        assert 0 <= first.number < 1
        for one in (first, second, other):
            one.advance()
