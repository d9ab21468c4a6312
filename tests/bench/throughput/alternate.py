"""Runs the sides in turn, from within the worker image: `alternate.py ROUNDS FILE`; FILE gets the rates as JSON.

Each side is two ranks with a thread each, which is what the agent gives them without a CPU limit.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.throughput.figures import MUSTER, SAME_RANKS, order, samples_per_second

RANKS = 2
TRAININGS = {"digits": "TimedDigits", "10 million parameters": "TimedPerceptron"}
_RECIPES = "tests.bench.throughput.recipes"
_HERE = Path(__file__).parent
_PORT = 17070
_ASKED_EVERY = 1.0  # seconds: as often as the operator asks at most
_LIMIT = 600.0


def main() -> None:
    rounds, file = int(sys.argv[1]), Path(sys.argv[2])
    rates: dict[str, dict[str, list[float]]] = {}
    for training, recipe in TRAININGS.items():
        found: dict[str, list[float]] = defaultdict(list)
        for round_ in range(rounds):
            for side in order(round_):
                found[side].append(_rate(side, f"{_RECIPES}:{recipe}"))
                print(
                    f"{training}, round {round_ + 1} of {rounds}: {side}: {found[side][-1]:,.0f} samples/s", flush=True
                )
        rates[training] = found
    file.write_text(json.dumps(rates))


def _rate(side: str, recipe: str) -> float:
    with TemporaryDirectory() as place:
        folder = Path(place)
        times, log = folder / "times.json", folder / "log"
        with log.open("wb") as output, _asking() if side == MUSTER else contextlib.nullcontext():
            done = subprocess.run(
                _command(side, recipe),
                env=os.environ | _environment(folder, times),
                stdout=output,
                stderr=output,
                timeout=_LIMIT,
                check=False,
            )
        if done.returncode or not times.exists():
            sys.exit(f"{side}, {recipe}: ended with {done.returncode}:\n{log.read_text(errors='replace')[-4000:]}")
        return samples_per_second(json.loads(times.read_text()))


def _command(side: str, recipe: str) -> list[str]:
    if side == MUSTER:
        return ["muster-worker", "agent", "recipe", recipe]
    program = _HERE / ("ranks.py" if side == SAME_RANKS else "script.py")
    launcher = [sys.executable, "-m", "tests.bench.throughput.torchrun"]
    return [*launcher, f"--nproc-per-node={RANKS}", f"--master-port={_PORT + 1}", str(program), recipe]


def _environment(folder: Path, times: Path) -> dict[str, str]:
    """What a worker pod has; torchrun's ranks have it too, so that they train alike."""
    root = str(_HERE.parents[2])
    return {
        "MUSTER_JOB_UID": "throughput",
        "MUSTER_POD": "throughput-0",
        "MUSTER_RANK": "0",
        "MUSTER_REPLICAS": "1",
        "MUSTER_PROCESSES": str(RANKS),
        "MUSTER_PORT": str(_PORT),
        "MUSTER_SOURCE": root,
        "MUSTER_REPORT": str(folder / "report.jsonl"),
        "MUSTER_STORAGE": str(folder / "storage"),
        "BENCH_TIMES": str(times),
        "PYTHONPATH": root,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }


@contextlib.contextmanager
def _asking():
    """The agent is asked for its state, as by the operator."""
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(_ASKED_EVERY):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{_PORT}/state") as answer:
                answer.read()

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        ended.set()
        asking.join()


if __name__ == "__main__":
    begun = time.monotonic()
    main()
    print(f"done after {time.monotonic() - begun:.0f} s")
