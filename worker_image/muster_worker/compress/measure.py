"""What a model costs and what it is worth: bytes on disk and in memory, seconds, metrics."""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from muster_worker.train.export import of_length, write_weights
from muster_worker.train.model_directory import WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn

_WARM_UP = 3
_RUNS = 30
_SECONDS = 2.0
"""A model so large that `_RUNS` of it take longer is measured by fewer."""


@dataclass(frozen=True)
class Measurement:
    """Of one model."""

    bytes: int
    """Of its weights file."""

    memory: int
    """Bytes."""

    latency: float
    """Seconds that one sample takes alone."""

    metrics: dict[str, float]
    """By its recipe's evaluation."""


def measure(
    model: nn.Module, examples: Sequence[Tensor], evaluate: Callable[[nn.Module], dict[str, float]]
) -> Measurement:
    """`examples`: its inputs, each of shape (N, …). `evaluate`: gives its metrics."""
    return Measurement(weights_bytes(model), memory_bytes(model), latency(model, examples, 1), evaluate(model))


def weights_bytes(model: nn.Module) -> int:
    """What the model's weights file would have, were it published."""
    with TemporaryDirectory(prefix="muster-") as scratch:
        path = Path(scratch) / WEIGHTS
        write_weights(path, model)
        return path.stat().st_size


def memory_bytes(model: nn.Module) -> int:
    """Parameters and buffers while nothing is computed; what shares memory counts once."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def latency(model: nn.Module, examples: Sequence[Tensor], samples: int) -> float:
    """Seconds a sample, `samples` of them computed together: the median of several runs.

    By as many threads as torch has at the moment, on the device where the model and the examples are.
    """
    inputs = [of_length(example, samples) for example in examples]
    return statistics.median(itertools.islice(_durations(model, inputs), _WARM_UP, None)) / samples


def _durations(model: nn.Module, inputs: Sequence[Tensor]) -> Iterator[float]:
    begun = time.perf_counter()
    for run in range(_WARM_UP + _RUNS):
        started = time.perf_counter()
        with torch.inference_mode():
            model(*inputs)
        yield (ended := time.perf_counter()) - started
        if run >= _WARM_UP and ended - begun > _SECONDS:
            return
