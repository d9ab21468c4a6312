"""Who waits, who has a slot, and who gets it next, while a thread computes."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest
import torch

from muster_worker.serve.deadlines import Deadlines
from muster_worker.serve.errors import TRIES, ComputationError, OverloadedError, TimedOutError
from muster_worker.serve.generate.decoder import LocalDecoder, LostError
from muster_worker.serve.generate.generations import WAITING, Generations
from muster_worker.serve.generate.parameters import Parameters
from muster_worker.serve.metrics import Metrics
from tests.worker.serve.served import LIMIT
from tests.worker.serve.writing import Scripted


class Stepwise(Scripted):
    """Computes one step each time that it is let."""

    context = 10_000

    def __init__(self):
        self.let = threading.Semaphore(0)
        self.waits = threading.Event()

    def step(self, cache, tokens, places):
        self.waits.set()
        assert self.let.acquire(timeout=LIMIT)
        self.waits.clear()
        return super().step(cache, tokens, places)

    def _after(self, tokens):
        return super()._after(tokens % 128 % 127)


def parameters(max_tokens):
    return Parameters(max_tokens=max_tokens, temperature=0.0)


def run(scenario, model=None, slots=2, seconds=LIMIT, decoders=None):
    """The scenario in an event loop, told of the generations. `decoders`: by default the model's."""

    async def all_of_it():
        writer = model or Stepwise()
        generations = Generations(writer, decoders or [LocalDecoder(writer, slots)], Metrics(), Deadlines(seconds))
        try:
            async with asyncio.timeout(LIMIT):
                await scenario(generations)
        finally:
            generations.close()

    asyncio.run(all_of_it())


async def text_of(generations, prompt, max_tokens):
    pieces = generations.generate(prompt, parameters(max_tokens))
    return "".join([piece.text async for piece in pieces])


async def until(holds):
    while not holds():  # noqa: ASYNC110 - a thread changes it
        await asyncio.sleep(0.001)


async def begun(generations, *asked):
    """Those who ask, one after the other; the first of them has two tokens then, whoever else has a slot has one."""
    tasks = []
    for prompt, max_tokens in asked:
        tasks.append(asyncio.create_task(text_of(generations, prompt, max_tokens)))
        await until(lambda: generations.active + generations.waiting == len(tasks))
        await until(generations._model.waits.is_set)
    generations._model.let.release()
    await until(lambda: generations.active == 2)
    return tasks


def test_a_short_text_leaves_and_another_joins_while_a_long_one_goes_on():
    model = Stepwise()

    async def scenario(generations):
        long, short, next_one = await begun(generations, ("a", 6), ("h", 2), ("p", 2))
        assert generations.waiting == 1
        model.let.release()
        assert await short == "ij"
        await until(lambda: (generations.active, generations.waiting) == (2, 0))
        model.let.release()
        assert await next_one == "qr"
        assert not long.done()
        model.let.release(2)
        assert await long == "bcdefg"

    run(scenario, model)


def test_who_stops_asking_frees_the_slot_at_the_next_step():
    model = Stepwise()

    async def scenario(generations):
        async with contextlib.aclosing(generations.generate("a", parameters(1000))) as pieces:
            assert (await anext(pieces)).text == "b"
        model.let.release()
        await until(lambda: generations.active == 0)
        for gone in await begun(generations, ("a", 1000), ("b", 1000)):
            gone.cancel()
        await asyncio.sleep(0)
        model.let.release()
        await until(lambda: generations.active == 0)
        assert await text_of(generations, "h", 1) == "i"

    run(scenario, model)


def test_who_waits_and_goes_never_gets_a_slot():
    model = Stepwise()

    async def scenario(generations):
        *texts, gone, stays = await begun(generations, ("a", 3), ("a", 2), ("h", 1), ("h", 1))
        gone.cancel()
        model.let.release()
        assert [*await asyncio.gather(*texts), await stays] == ["bcd", "bc", "i"]

    run(scenario, model)


def test_more_than_may_wait_are_sent_to_others():
    model = Stepwise()

    async def scenario(generations):
        texts = await begun(generations, ("a", 3), ("a", 3))
        texts += [asyncio.create_task(text_of(generations, "a", 3)) for _ in range(2 * WAITING)]
        await until(lambda: generations.waiting == 2 * WAITING)
        with pytest.raises(OverloadedError, match="16 texts wait already to be generated: try again in a second"):
            await text_of(generations, "a", 1)
        model.let.release(100)
        assert await asyncio.gather(*texts) == ["bcd"] * len(texts)

    run(scenario, model)


def test_who_waited_and_went_is_in_nobodys_way():
    model = Stepwise()

    async def scenario(generations):
        texts = await begun(generations, ("a", 3), ("a", 3))
        gone = [asyncio.create_task(text_of(generations, "a", 3)) for _ in range(2 * WAITING)]
        await until(lambda: generations.waiting == 2 * WAITING)
        for one in gone:
            one.cancel()
        await until(lambda: generations.waiting == 0)
        texts.append(asyncio.create_task(text_of(generations, "a", 3)))
        await until(lambda: generations.waiting == 1)
        model.let.release(100)
        assert await asyncio.gather(*texts) == ["bcd"] * 3

    run(scenario, model)


def test_what_takes_too_long_ends_with_what_there_is():
    model = Stepwise()

    async def scenario(generations):
        pieces = generations.generate("a", parameters(3))
        assert (await anext(pieces)).text == "b"
        with pytest.raises(TimedOutError, match=r"no answer within 0\.1 s"):
            await anext(pieces)
        assert generations.computing_for >= 0.05
        model.let.release()
        await until(lambda: generations.active == 0)
        assert generations.computing_for == 0

    run(scenario, model, slots=1, seconds=0.1)


def test_who_waits_too_long_is_told_so():
    model = Stepwise()

    async def scenario(generations):
        texts = [asyncio.create_task(text_of(generations, "a", 3)) for _ in range(2)]
        for text in texts:
            with pytest.raises(TimedOutError):
                await text
        model.let.release()
        await until(lambda: generations.active == 0 and generations.waiting == 0)

    run(scenario, model, slots=1, seconds=0.1)


def test_a_model_that_fails_goes_on_with_others():
    model = Stepwise()

    async def scenario(generations):
        for prompt in ("#", "?"):
            with pytest.raises(ComputationError, match="the model failed: "):
                await text_of(generations, prompt, 5)
        both = await begun(generations, ("a", 20), ("B", 20))  # which come to d and D together
        model.let.release(100)
        for one in both:
            with pytest.raises(ComputationError, match="the model failed: RuntimeError: too much"):
                await one
        assert await text_of(generations, "a", 5) == "bcdef"

    run(scenario, model)


def test_a_recipe_that_makes_no_text_of_its_tokens_fails_for_that_sequence_alone():
    class Wordless(Scripted):
        def decode(self, tokens):
            if ord("c") in tokens:
                raise KeyError("no such word")
            return super().decode(tokens)

    async def scenario(generations):
        with pytest.raises(ComputationError, match="the model failed: KeyError: 'no such word'"):
            await text_of(generations, "a", 5)
        assert await text_of(generations, "d", 2) == "ef"

    run(scenario, Wordless())


class Losing(LocalDecoder):
    """Is lost at the steps of these numbers. It is able when it is told so."""

    def __init__(self, *steps, model=None):
        super().__init__(model or Scripted(), 4)
        self.able = True
        self.prefilled = []
        self._lost_at, self._step = set(steps), 0

    def prefill(self, slot, tokens, rules):
        self.prefilled.append("".join(map(chr, tokens)))
        return super().prefill(slot, tokens, rules)

    def step(self, slots, tokens, places, rules):
        self._step += 1
        if self._step in self._lost_at:
            raise LostError
        return super().step(slots, tokens, places, rules)


def test_a_text_goes_to_whoever_has_the_fewest_and_stays_there():
    models = [Stepwise(), Stepwise()]
    decoders = [Losing(model=model) for model in models]

    async def scenario(generations):
        texts = [asyncio.create_task(text_of(generations, prompt, 3)) for prompt in "ah"]
        await until(lambda: all(model.waits.is_set() for model in models))
        assert (generations.active, generations.waiting) == (2, 0)
        for model in models:
            model.let.release(100)
        assert await asyncio.gather(*texts) == ["bcd", "ijk"]

    run(scenario, decoders=decoders)
    assert sorted(decoder.prefilled for decoder in decoders) == [["a"], ["h"]]


def test_what_is_lost_goes_on_where_it_was():
    decoder = Losing(3)

    async def scenario(generations):
        pieces = [piece async for piece in generations.generate("a", parameters(6))]
        assert [piece.text for piece in pieces] == list("bcdefg")

    run(scenario, decoders=[decoder])
    assert decoder.prefilled == ["a", "abcd"]


def test_what_is_drawn_is_the_same_whatever_is_lost_meanwhile():

    class Indifferent(Scripted):
        """All letters are alike to it."""

        def _after(self, tokens):
            logits = torch.zeros(len(tokens), 128)
            logits[:, ord("a") : ord("z")] = 100.0
            return logits

    def written(*lost_at):
        texts = []

        async def scenario(generations):
            drawn = Parameters(max_tokens=12, temperature=1.0, seed=3)
            texts.append("".join([piece.text async for piece in generations.generate("a", drawn)]))

        run(scenario, decoders=[Losing(*lost_at, model=Indifferent())])
        return texts

    (whole,) = written()
    assert len(set(whole)) > 4
    assert written(3, 8) == [whole]


def test_what_is_lost_by_one_is_gone_on_with_by_another():
    class LostForGood(Losing):
        def step(self, slots, tokens, places, rules):
            self.able = False
            raise LostError

    first, second = LostForGood(), Losing()
    second.able = False

    async def scenario(generations):
        text = asyncio.create_task(text_of(generations, "a", 4))
        await until(lambda: generations.waiting == 1 and first.prefilled)
        second.able = True
        assert await text == "bcde"

    run(scenario, decoders=[first, second])
    assert (first.prefilled, second.prefilled) == (["a"], ["ab"])


def test_what_many_have_ended_of_is_given_up():
    decoder = Losing(*range(1, 2 * TRIES))

    async def scenario(generations):
        pieces = generations.generate("a", parameters(20))
        assert [(await anext(pieces)).text for _ in range(TRIES)] == list("bcd")
        with pytest.raises(ComputationError, match="3 processes have ended while they computed this"):
            await anext(pieces)
        assert generations.active == 0

    run(scenario, decoders=[decoder])


def test_a_text_goes_on_however_often_it_is_lost_by_what_others_asked():
    class LostByOthers(Losing):
        def step(self, slots, tokens, places, rules):
            try:
                return super().step(slots, tokens, places, rules)
            except LostError:
                raise LostError(died=False) from None

    async def scenario(generations):
        assert await text_of(generations, "a", 3 * TRIES) == "bcdefghij"

    run(scenario, decoders=[LostByOthers(*range(1, 2 * TRIES))])


def test_while_nobody_computes_texts_wait():
    decoder = Losing()
    decoder.able = False

    async def scenario(generations):
        text = asyncio.create_task(text_of(generations, "a", 2))
        await until(lambda: generations.waiting == 1)
        decoder.able = True
        assert await text == "bc"

    run(scenario, decoders=[decoder])
