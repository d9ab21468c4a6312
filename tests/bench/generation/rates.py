"""Characters a second, in the worker image: with and without a cache, one text after the other and eight at once."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import torch

from muster_worker.recipes.chargpt import CharGPT, CharGPTConfig
from muster_worker.serve.deadlines import Deadlines
from muster_worker.serve.generate.decoder import LocalDecoder
from muster_worker.serve.generate.generations import SLOTS, Generations
from muster_worker.serve.generate.parameters import Parameters
from muster_worker.serve.metrics import Metrics
from muster_worker.serve.threads import set_threads

MODELS = {
    "2 layers of width 64": CharGPTConfig(layers=2, heads=4, width=64, context=256),
    "4 layers of width 128": CharGPTConfig(layers=4, heads=4, width=128, context=256),
    "6 layers of width 384": CharGPTConfig(layers=6, heads=6, width=384, context=256),
}
PROMPT = "The "
TOKENS = 200
"""Of each text."""


def main(rounds: int, found: Path) -> None:
    """Writes, for each model and round, the rates without a cache, of one text after the other, of all at once."""
    set_threads(1)
    rates = {name: [one_round(config) for _ in range(rounds)] for name, config in MODELS.items()}
    found.write_text(json.dumps(rates))


def one_round(config: CharGPTConfig) -> tuple[float, float, float]:
    torch.manual_seed(0)
    recipe = CharGPT(config)
    model = recipe.model().eval()
    writer = recipe.language_model(model)

    async def with_cache() -> tuple[float, float]:
        generations = Generations(writer, [LocalDecoder(writer, SLOTS)], Metrics(), Deadlines(3600))
        begun = time.perf_counter()
        for _ in range(SLOTS):
            await text(generations)
        one_by_one = time.perf_counter()
        await asyncio.gather(*(text(generations) for _ in range(SLOTS)))
        at_once = time.perf_counter()
        generations.close()
        return SLOTS * TOKENS / (one_by_one - begun), SLOTS * TOKENS / (at_once - one_by_one)

    return without_cache(recipe, model), *asyncio.run(with_cache())


async def text(generations: Generations) -> None:
    async for _ in generations.generate(PROMPT, Parameters(max_tokens=TOKENS, temperature=0.0)):
        pass


def without_cache(recipe: CharGPT, model: torch.nn.Module) -> float:
    """Tokens a second, where each one takes the whole text before it."""
    tokens = torch.tensor(recipe.language_model(model).encode(PROMPT))
    begun = time.perf_counter()
    with torch.inference_mode():
        for _ in range(TOKENS):
            tokens = torch.cat([tokens, model(tokens[None])[0, -1:].argmax(1)])
    return TOKENS / (time.perf_counter() - begun)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
