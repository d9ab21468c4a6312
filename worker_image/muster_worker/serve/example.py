"""Whether a model that was loaded computes what it computed when it was published.

Checksums say that files are intact. This says that they are computed with as they were meant to be: that the recipe in
the image is the one that they were made by, that ranks divide it as one process would, that the device can be trusted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from muster_worker.train.errors import ConfigurationError
from muster_worker.train.model_directory import example

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from muster_worker.serve.model import Model

TOLERANCE = 0.02
"""Of the largest value of an output: what another device, fewer bits and another order of sums may make of it."""


def check_example(model: Model, directory: Path) -> None:
    """Computes the samples of an intact model directory; raises ConfigurationError where something else comes of them.

    Does nothing where it has no example, as one that `muster-worker package` made.
    """
    there = example(directory)
    if there is None:
        return
    inputs, outputs = there
    found = model.compute([inputs[spec.name] for spec in model.signature.inputs])
    for spec, tensor in zip(model.signature.outputs, found, strict=True):
        wanted = outputs[spec.name]
        if not _alike(tensor, wanted):
            raise ConfigurationError(
                f"spec.model: the model in {directory} does not compute what it computed when it was published:"
                f" {spec.name} of its first sample is {_shown(tensor)}, was {_shown(wanted)}. Was it made by another"
                " version of its recipe than this image has?"
            )


def _alike(found: Tensor, wanted: Tensor) -> bool:
    if found.shape != wanted.shape:
        return False
    if not wanted.is_floating_point():
        return torch.equal(found, wanted)
    within = TOLERANCE * wanted[wanted.isfinite()].abs().max().item() if wanted.isfinite().any() else 0.0
    return torch.allclose(found.float(), wanted.float(), rtol=0.0, atol=within, equal_nan=True)


def _shown(tensor: Tensor) -> str:
    first = tensor[0].flatten()
    values = ", ".join(f"{value:.4g}" for value in first[:4].tolist())
    return f"[{values}{', …' if len(first) > 4 else ''}]"
