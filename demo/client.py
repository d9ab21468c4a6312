"""Runs in a pod: asks a model for the digits on images, at a steady rate, and prints what came of it.

The first line is some images with their digits, as requests; every half second comes a line of counts.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from typing import Any

from muster_worker.recipes.digits import load_digits

RATE = 40.0  # requests a second
ASKERS = 8
SHOWN = (1, 12, 23)  # which images a person is shown


def request(name: str, image: Sequence[float]) -> dict[str, Any]:
    return {"inputs": [{"name": name, "shape": [1, 1, 8, 8], "datatype": "FP32", "data": image}]}


def main(url: str) -> None:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - the Service's own
        name = json.load(answer)["inputs"][0]["name"]
    images, digits = load_digits()
    requests = [request(name, image.flatten().tolist()) for image in images[:200]]
    print(json.dumps({"images": [{"digit": int(digits[n]), "request": requests[n]} for n in SHOWN]}), flush=True)
    bodies = [json.dumps(one).encode() for one in requests]
    counts, lock, begun = {"answered": 0, "failed": 0}, threading.Lock(), time.monotonic()

    def ask(first: int) -> None:
        for number in range(first, sys.maxsize, ASKERS):
            time.sleep(max(0.0, begun + number / RATE - time.monotonic()))
            question = urllib.request.Request(f"{url}/infer", bodies[number % len(bodies)])  # noqa: S310
            try:
                with urllib.request.urlopen(question, timeout=5) as answer:  # noqa: S310
                    ending = "answered" if json.load(answer)["outputs"] else "failed"
            except OSError:
                ending = "failed"
            with lock:
                counts[ending] += 1

    for first in range(ASKERS):
        threading.Thread(target=ask, args=(first,), daemon=True).start()
    while True:
        time.sleep(0.5)
        print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
