"""Which layers are whose, and how each is divided: pure, but for torch's modules."""

from __future__ import annotations

import functools
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from muster_worker.train.errors import ConfigurationError
from muster_worker.train.recipe import reference_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn
    from torch.distributed.tensor.parallel import ParallelStyle

    from muster_worker.train.recipe import Recipe


def layers_of(recipe: Recipe, model: nn.Module, ways: int, number: int, field: str) -> list[nn.Module]:
    """The layers of stage `number` among so many, one after the other; raises ConfigurationError naming `field`."""
    layers = recipe.pipeline_layers(model)
    if layers is None:
        raise ConfigurationError(_unplanned(f"{field}.pipeline", ways, recipe, "pipeline_layers"))
    if len(layers) < ways:
        raise ConfigurationError(
            f"{field}.pipeline: found {ways}, wanted at most {len(layers)}: so many layers has {reference_of(recipe)}"
        )
    return [layers[index] for index in divided([_bytes(layer) for layer in layers], ways)[number]]


def plan_of(recipe: Recipe, model: nn.Module, part: nn.Module, ways: int, field: str) -> dict[str, ParallelStyle]:
    """As much of the recipe's tensor plan as concerns `part`, without patterns: styles by names in `model`.

    Raises ConfigurationError naming `field`.
    """
    plan = recipe.tensor_plan(model)
    if plan is None:
        raise ConfigurationError(_unplanned(f"{field}.tensor", ways, recipe, "tensor_plan"))
    mine = set(part.modules())
    found: dict[str, ParallelStyle] = {}
    for pattern, style in plan.items():
        matching = {name: module for name, module in model.named_modules() if _matches(name, pattern)}
        if not matching:
            raise ConfigurationError(
                f"{field}.tensor: the tensor_plan of {reference_of(recipe)} names {pattern}, which is not there"
            )
        found |= {name: style for name, module in matching.items() if module in mine}
    return found


def divided(weights: Sequence[int], count: int) -> list[range]:
    """The indices of `weights` as `count` runs of at least one, so that the heaviest is as light as can be."""

    @functools.cache
    def best(first: int, runs: int) -> tuple[int, list[range]]:
        if runs == 1:
            return sum(weights[first:]), [range(first, len(weights))]
        found: list[tuple[int, list[range]]] = []
        for end in range(first + 1, len(weights) - runs + 2):
            heaviest, others = best(end, runs - 1)
            found.append((max(sum(weights[first:end]), heaviest), [range(first, end), *others]))
        return min(found, key=lambda one: one[0])

    return best(0, count)[1]


def _unplanned(field: str, found: int, recipe: Recipe, method: str) -> str:
    return f"{field}: found {found}, wanted 1, or a recipe that says how: {reference_of(recipe)} has no {method}"


def _bytes(layer: nn.Module) -> int:
    """Of all that it has: quantized weights are no parameters."""
    return sum(tensor.nbytes for tensor in (*layer.parameters(), *layer.buffers()))


def _matches(name: str, pattern: str) -> bool:
    words, wanted = name.split("."), pattern.split(".")
    return len(words) == len(wanted) and all(map(fnmatchcase, words, wanted))
