"""What is served: `models.py DIRECTORY` publishes both models there as a training job would, and what they answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INPUTS = 64
"""Numbers in a sample."""

SAMPLES = 64
"""Different ones, sent in turn."""


@dataclass(frozen=True)
class Perceptron:
    name: str
    widths: tuple[int, ...]

    @property
    def parameters(self) -> int:
        return sum((before + 1) * after for before, after in zip(self.widths, self.widths[1:], strict=False))


SMALL = Perceptron("small", (INPUTS, 64, 10))
MEDIUM = Perceptron("medium", (INPUTS, 1664, 1664, 1664, 10))
"""23 MB of weights: one sample takes milliseconds, for all of them are read, and they are read once for a batch."""

MODELS = (SMALL, MEDIUM)
PROGRAM = "program.pt2"


def computation(program: Path) -> Callable[..., Any]:
    """Everybody's forward pass. Not through its hooks, which compare inputs with what was exported."""
    import torch

    return torch.export.load(program).module().forward


def main() -> None:
    import torch
    from torch import nn

    from muster_worker.train.export import Trained, export_model

    directory = Path(sys.argv[1])
    torch.manual_seed(7)
    samples = torch.randn(SAMPLES, INPUTS)
    answers = {}
    for one in MODELS:
        layers: list[nn.Module] = []
        for before, after in zip(one.widths, one.widths[1:], strict=False):
            layers += [nn.Linear(before, after), nn.ReLU()]
        model = nn.Sequential(*layers[:-1])
        export_model(directory / one.name, Trained(model, (samples,), {}, {"step": 1, "epoch": 1}), "token")
        with torch.inference_mode():
            answers[one.name] = model(samples).tolist()
    (directory / "samples.json").write_text(json.dumps({"samples": samples.tolist(), "answers": answers}))


if __name__ == "__main__":
    main()
