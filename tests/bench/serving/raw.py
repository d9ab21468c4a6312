"""Torch alone: `raw.py PROGRAM BATCH SECONDS` prints how many samples a second it computes, in batches of that size."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from tests.bench.serving.models import INPUTS, computation


def main() -> None:
    program, batch, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    torch.set_num_threads(1)
    forward, samples = computation(program), torch.randn(batch, INPUTS)
    with torch.inference_mode():
        for _ in range(20):
            forward(samples)
        begun = now = time.perf_counter()
        count = 0
        while now < begun + seconds:
            forward(samples)
            count += batch
            now = time.perf_counter()
    print(count / (now - begun))


if __name__ == "__main__":
    main()
