"""Evaluation: every rank takes its share of the validation samples; the result is the exact mean over all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from muster_worker.train.batches import batches, to_device
from muster_worker.train.config import camel_case
from muster_worker.train.device import carry_out
from muster_worker.train.errors import ConfigurationError
from muster_worker.train.recipe import reference_of
from muster_worker.train.sharding import share

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn
    from torch.utils.data import Dataset

    from muster_worker.train.precision import Precision
    from muster_worker.train.recipe import Recipe
    from muster_worker.train.strategy.layout import Layout


def evaluate(
    recipe: Recipe,
    model: nn.Module,
    dataset: Dataset[Any],
    precision: Precision,
    device: torch.device,
    layout: Layout,
    before_each: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """`validationLoss` and the recipe's metrics, the same on all ranks. Collective.

    `before_each`: called before each batch, on all ranks as often.
    """
    count = len(dataset)
    size = max(1, recipe.config.batch_size // layout.data)
    shares = [share(range(count), number, layout.data) for number in range(layout.data)]
    mine = shares[layout.share]
    # Every rank computes as often as the others, who may need its part of the model: at the end perhaps one sample with
    # no weight, which also tells the names of the metrics to a rank that has none.
    chunks = [mine[start : start + size] for start in range(0, max(map(len, shares)), size)]
    sums = sums_over(recipe, model, dataset, chunks, precision, device, before_each)
    totals = torch.stack(list(sums.values())) * layout.speaks
    dist.all_reduce(totals)
    return dict(zip(sums, (totals / count).tolist(), strict=True))


def evaluate_alone(
    recipe: Recipe, model: nn.Module, dataset: Dataset[Any], precision: Precision, device: torch.device
) -> dict[str, float]:
    """The same by this process alone, which measures every sample. Not collective: it needs no process group."""
    everything, size = range(len(dataset)), recipe.config.batch_size
    chunks = [everything[start : start + size] for start in everything[::size]]
    sums = sums_over(recipe, model, dataset, chunks, precision, device)
    return {name: (total / len(dataset)).item() for name, total in sums.items()}


def sums_over(
    recipe: Recipe,
    model: nn.Module,
    dataset: Dataset[Any],
    chunks: Sequence[range],
    precision: Precision,
    device: torch.device,
    before_each: Callable[[], None] = lambda: None,
) -> dict[str, torch.Tensor]:
    """Over the samples of the chunks, each measured at once; the names in the same order on all ranks."""
    sums: dict[str, torch.Tensor] = {}
    training = model.training
    model.eval()
    with torch.no_grad():
        for chunk, (input_, target) in zip(
            chunks, batches(dataset, (chunk or range(1) for chunk in chunks)), strict=True
        ):
            before_each()
            values = measured(recipe, model, to_device(input_, device), to_device(target, device), precision)
            carry_out(device)
            for name, value in values.items():
                total = sums.setdefault(name, torch.zeros((), dtype=torch.float64))
                if chunk:  # of one sample alone, it may be no number, which times nothing is none either
                    total += value.to("cpu", torch.float64) * len(chunk)
    model.train(training)
    return dict(sorted(sums.items()))


def measured(
    recipe: Recipe, model: nn.Module, input_: Any, target: Any, precision: Precision
) -> dict[str, torch.Tensor]:
    """The means over one batch, by the names they are reported under; raises ConfigurationError for what is none."""
    inputs = input_ if isinstance(input_, tuple) else (input_,)
    with precision.forward():
        output = model(*inputs)
        loss, metrics = recipe.loss(output, target), recipe.metrics(output, target)
    if not isinstance(loss, torch.Tensor):
        raise ConfigurationError(
            f"{reference_of(recipe)}: its loss() gives a {type(loss).__name__}, wanted the tensor, of which"
            " gradients are computed"
        )
    if not isinstance(metrics, Mapping):
        raise ConfigurationError(
            f"{reference_of(recipe)}: its metrics() gives a {type(metrics).__name__}, wanted a dict of numbers by name"
        )
    return {validation_name(name): _number(recipe, name, value) for name, value in {"loss": loss, **metrics}.items()}


def _number(recipe: Recipe, name: str, value: Any) -> torch.Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigurationError(
            f"{reference_of(recipe)}: its {validation_name(name)} is a {type(value).__name__}, wanted one number: the"
            " mean over the samples of a batch"
        ) from None


def validation_name(name: str) -> str:
    return camel_case(f"validation_{name}")
