"""Batches of a dataset: samples by index, stacked, on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, default_collate

from muster_worker.train.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch.utils.data import Dataset


def batches(dataset: Dataset[Any], indices: Iterable[Sequence[int]]) -> Iterator[Any]:
    """For each list of sample indices the pair (input, target), each stacked along a new first dimension."""
    # A generator of its own: the loader would otherwise draw from the one that dropout uses.
    return iter(DataLoader(dataset, batch_sampler=indices, collate_fn=collated, generator=torch.Generator()))


def collated(samples: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
    for sample in samples:
        if not isinstance(sample, (tuple, list)) or len(sample) != 2:
            found = f"{type(sample).__name__} of {len(sample)}" if hasattr(sample, "__len__") else type(sample).__name__
            raise ConfigurationError(f"the recipe's datasets: a sample is a {found}, wanted a pair: (input, target)")
    inputs, targets = zip(*samples, strict=True)
    if isinstance(inputs[0], tuple):
        return tuple(default_collate(parts) for parts in zip(*inputs, strict=True)), default_collate(targets)
    return default_collate(inputs), default_collate(targets)


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors in tuples, lists and dicts are moved; anything else stays."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, (tuple, list)):
        items = [to_device(item, device) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)  # named tuples take them apart
    if isinstance(value, dict):
        return {name: to_device(item, device) for name, item in value.items()}
    return value
