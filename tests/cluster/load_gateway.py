"""Runs in a pod: asks a model through a gateway, checks every answer, and counts by which version it was given.

The directory holds all versions that may answer, each in PATH/model. Every other request comes over a kept connection.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from pathlib import Path

import torch
from load_generator import Asked
from open_loop import Counts, Http, ask_steadily

from muster_worker.serve.model import ServedModel


class Versions:
    """The same inputs for all, with what each version answers."""

    def __init__(self, directory: Path) -> None:
        directories = sorted(path.parent for path in directory.glob("*/model/model.json"))
        self._asked = {ServedModel.load(one, torch.device("cpu")).version: Asked(one) for one in directories}
        self.bodies = next(iter(self._asked.values())).bodies
        self.answered: Counter[str] = Counter()

    def check_body(self, number: int, body: bytes) -> None:
        version = json.loads(body)["model_version"]
        self._asked[version].check_body(number, body)
        self.answered[version] += 1


async def main(host: str, model: str, rate: float, limit: float, directory: Path, counts_at: Path) -> None:
    versions = Versions(directory)
    counts = Counts(counts_at, limit)
    counts.counted["versions"] = versions.answered
    http = Http(host, f"/v2/models/{model}/infer", versions)
    await ask_steadily(lambda _: http, rate, counts)


if __name__ == "__main__":
    torch.set_num_threads(1)
    host, model, rate, limit, directory = sys.argv[1:]
    asyncio.run(main(host, model, float(rate), float(limit), Path(directory), Path(os.environ["COUNTS"])))
