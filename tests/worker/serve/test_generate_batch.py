"""Texts that are generated with a cache, alone or together, are those of the whole forward pass without one."""

from __future__ import annotations

import pytest
import torch

from muster_worker.recipes.chargpt import CharGPT, encoded
from muster_worker.serve.errors import ComputationError, RequestError
from muster_worker.serve.generate.batch import Batch
from muster_worker.serve.generate.decoder import LocalDecoder
from muster_worker.serve.generate.parameters import Parameters
from muster_worker.serve.generate.sampling import Chosen
from muster_worker.serve.generate.sequence import Sequence
from tests.worker.serve.writing import CONFIG, Scripted, chargpt

PROMPTS = ["The", "a", "while x < 3:", "if ", "\n\nclass", "def f(x", "import os", "lambda: 0, 12 + 3 * 4"]
GREEDY = Parameters(max_tokens=1000, temperature=0.0)
QUANTIZED = [[], [{"quantize": {"bits": 8}}], [{"quantize": {"bits": 4}}], [{"quantize": {"mode": "dynamic"}}]]


def language_model(model):
    return CharGPT(CONFIG).language_model(model)


def generate(model, *asked, slots=8):
    """The texts of each prompt with its parameters: all join at once, as slots become free."""
    batch, waiting = Batch(LocalDecoder(model, slots)), [Sequence(model, *one) for one in asked]
    pieces = {sequence: [] for sequence in waiting}
    order = list(waiting)
    while waiting or batch.sequences:
        chosen = []
        while waiting and batch.free:
            sequence = waiting.pop(0)
            chosen.append((sequence, batch.join(sequence)))
            take(batch, pieces, *chosen.pop())
        for sequence, token in batch.step():
            take(batch, pieces, sequence, token)
    return [pieces[sequence] for sequence in order]


def take(batch, pieces, sequence, token):
    pieces[sequence].append(sequence.take(token))
    if pieces[sequence][-1].finish_reason:
        batch.leave(sequence)


def tokens(pieces):
    return [piece.token.id for piece in pieces]


@torch.no_grad()
def without_cache(model, prompt):
    """Greedily, up to the end of the context."""
    found = encoded(prompt)
    while len(found) < CONFIG.context:
        found = torch.cat([found, model(found[None])[0, -1:].argmax(1)])
    return found[len(prompt) :].tolist()


@pytest.mark.parametrize("steps", QUANTIZED)
def test_each_step_has_the_logits_of_the_whole_forward_pass(steps):
    model = chargpt(steps)
    writer = language_model(model)
    text = torch.stack([encoded("print(x) if x else 0, " * 3)[first : first + 48] for first in (0, 3, 9)])
    lengths = [1, 7, 30]
    with torch.inference_mode():
        whole = model(text)
        cache = writer.cache(4)
        for slot, length in zip((2, 0, 3), lengths, strict=True):
            found = writer.prefill(cache, slot, text[lengths.index(length), :length])
            torch.testing.assert_close(found, whole[lengths.index(length), length - 1], rtol=1e-4, atol=1e-4)
        for _ in range(CONFIG.context - 30):
            given, places = torch.zeros(2, 4, dtype=torch.int64)
            for row, slot in enumerate((2, 0, 3)):
                given[slot], places[slot] = text[row, lengths[row]], lengths[row]
            found = writer.step(cache, given, places)
            for row, slot in enumerate((2, 0, 3)):
                torch.testing.assert_close(found[slot], whole[row, lengths[row]], rtol=1e-4, atol=1e-4)
                lengths[row] += 1


@pytest.mark.parametrize("steps", QUANTIZED)
def test_the_likeliest_texts_are_those_without_a_cache_alone_and_together(steps):
    model = chargpt(steps)
    wanted = [without_cache(model, prompt) for prompt in PROMPTS]
    assert len({tuple(one) for one in wanted}) > 4, "they should not all write the same"
    together = generate(language_model(model), *((prompt, GREEDY) for prompt in PROMPTS))
    assert [tokens(pieces) for pieces in together] == wanted
    for prompt, one in zip(PROMPTS, wanted, strict=True):
        (alone,) = generate(language_model(model), (prompt, GREEDY))
        assert tokens(alone) == one
        assert alone[-1].finish_reason == "length"
        assert len(prompt) + len(alone) == CONFIG.context


def test_more_than_there_are_slots_take_those_of_others_and_write_the_same():
    model = language_model(chargpt())
    asked = [
        (prompt, Parameters(max_tokens=3 + 5 * number % 11, temperature=0.0)) for number, prompt in enumerate(PROMPTS)
    ]
    found = [tokens(pieces) for pieces in generate(model, *asked, slots=3)]
    assert found == [tokens(*generate(model, one)) for one in asked]
    assert [len(one) for one in found] == [its.max_tokens for _, its in asked]


def test_what_is_drawn_depends_on_the_seed_and_not_on_the_others():
    model = language_model(chargpt())
    asked = [
        (prompt, Parameters(max_tokens=30, temperature=0.9, top_k=20, seed=number))
        for number, prompt in enumerate(PROMPTS)
    ]
    together = [tokens(pieces) for pieces in generate(model, *asked)]
    assert together == [tokens(pieces) for pieces in generate(model, *reversed(asked))][::-1]
    assert together == [tokens(*generate(model, one)) for one in asked]
    same_seed = [tokens(*generate(model, ("The", Parameters(max_tokens=20, seed=seed)))) for seed in (5, 5, 6)]
    assert same_seed[0] == same_seed[1] != same_seed[2]


def test_without_a_seed_nobody_knows():
    model = language_model(chargpt())
    first, second = generate(model, *[("The", Parameters(max_tokens=30))] * 2)
    assert tokens(first) != tokens(second)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "text_input: found no token, wanted at least one to go on from"),
        ("x" * 48, "text_input: found 48 tokens, wanted at most 47: the model looks back at 48"),
    ],
)
def test_a_prompt_that_leaves_nothing_to_write_is_refused(text, wanted):
    with pytest.raises(RequestError, match=wanted):
        Sequence(language_model(chargpt()), text, GREEDY)


def test_a_prompt_may_have_all_of_the_context_but_one_token():
    ((piece,),) = generate(language_model(chargpt()), ("x" * 47, GREEDY))
    assert piece.finish_reason == "length"


def text_of(pieces):
    return "".join(piece.text for piece in pieces)


def test_the_end_token_ends_it_and_is_no_text():
    (pieces,) = generate(Scripted(), ("uv", GREEDY))
    assert (text_of(pieces), pieces[-1].finish_reason) == ("wxyz", "eos_token")
    assert [piece.token.special for piece in pieces] == [False] * 4 + [True]


@pytest.mark.parametrize(
    ("stop", "pieces"),
    [
        (("f",), ["c", "d", "e", ""]),
        (("efg", "xyz"), ["c", "d", "", "", ""]),
        (("eg", "ghi"), ["c", "d", "", "ef", "", "", ""]),
        (("hij", "i"), ["c", "d", "e", "f", "g", "", "h"]),
    ],
)
def test_it_stops_before_a_text_and_gives_out_nothing_of_it(stop, pieces):
    parameters = Parameters(max_tokens=20, temperature=0.0, stop=stop)
    (found,) = generate(Scripted(), ("b", parameters))
    assert [piece.text for piece in found] == pieces
    assert found[-1].finish_reason == "stop_sequence"


def test_what_might_have_been_a_stop_is_given_out_at_the_end():
    (pieces,) = generate(Scripted(), ("b", Parameters(max_tokens=4, temperature=0.0, stop=("efgh",))))
    assert [piece.text for piece in pieces] == ["c", "d", "", "ef"]
    assert pieces[-1].finish_reason == "length"


def test_a_model_that_fails_says_so_to_those_that_it_was_computing():
    model = Scripted()
    batch = Batch(LocalDecoder(model, 4))
    with pytest.raises(ComputationError, match="the model failed: ValueError: no such thing"):
        batch.join(Sequence(model, "#", GREEDY))
    with pytest.raises(ComputationError, match="the model failed: a logit is not a number"):
        batch.join(Sequence(model, "?", GREEDY))
    assert batch.free == 4
    for prompt in ("c", "C"):
        sequence = Sequence(model, prompt, GREEDY)
        sequence.take(batch.join(sequence))
    assert [str(error) for _, error in batch.step()] == ["the model failed: RuntimeError: too much"] * 2


def test_one_logit_that_is_no_number_is_the_error_of_one_sequence():
    model = Scripted()
    batch = Batch(LocalDecoder(model, 4))
    for prompt in (">", "b"):
        sequence = Sequence(model, prompt, GREEDY)
        sequence.take(batch.join(sequence))
    (_, wrong), (_, right) = batch.step()
    assert isinstance(wrong, ComputationError)
    assert right.token == ord("d")


class Bytes(Scripted):
    """A character of several bytes takes several tokens."""

    end_token = None

    def encode(self, text):
        return list(text.encode())

    def decode(self, tokens):
        return bytes(tokens).decode(errors="replace")


def test_half_a_character_is_not_given_out():
    sequence = Sequence(Bytes(), "x", GREEDY)
    given = [sequence.take(type("Chosen", (), {"token": byte, "logprob": 0.0})()).text for byte in "aé€".encode()]
    assert given == ["a", "", "é", "", "", "€"]


class Pieces(Bytes):
    """Its tokens are some bytes each."""

    end_token = 3

    def encode(self, text):
        return [0]

    def decode(self, tokens):
        given = (b"a", b"b|c\xe2", b"\x82\xac", b"")
        return b"".join(given[token] for token in tokens).decode(errors="replace")


@pytest.mark.parametrize(
    ("stop", "tokens", "wanted"),
    [
        ("|", [0, 1], ("ab", "stop_sequence")),
        ("|", [0, 1, 2], ("ab", "stop_sequence")),
        ("|", [0, 1, 3], ("ab", "stop_sequence")),
        ("c€", [0, 1, 2], ("ab|", "stop_sequence")),
        ("c€", [0, 1, 3], ("ab|c\N{REPLACEMENT CHARACTER}", "eos_token")),
        ("c€", [0, 1], ("ab|c\N{REPLACEMENT CHARACTER}", "length")),
    ],
)
def test_a_stop_that_comes_with_half_a_character_ends_the_text(stop, tokens, wanted):
    sequence = Sequence(Pieces(), "a", Parameters(max_tokens=len(tokens), stop=(stop,)))
    pieces = [sequence.take(Chosen(token, 0.0)) for token in tokens]
    assert ("".join(piece.text for piece in pieces), pieces[-1].finish_reason) == wanted
