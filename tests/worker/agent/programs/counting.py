"""A training program in miniature: every step is an all-reduce; rank 0 keeps the count in the storage.

It stops at STEPS (0: never), saves and leaves on SIGTERM, and does what WHAT says in the rank WHO.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

PAUSE = 0.02


def run(what: str) -> None:
    rank = int(os.environ["RANK"])
    folder = Path(os.environ["TEST_FOLDER"])
    (folder / f"pid-{os.getpid()}").write_text(str(os.getpid()))
    leaving = []
    signal.signal(signal.SIGTERM, lambda *_: leaving.append(True))
    dist.init_process_group("gloo")
    saved = Path(os.environ["MUSTER_STORAGE"]) / "step"
    start = torch.tensor([int(saved.read_text()) if rank == 0 and saved.exists() else 0])
    dist.broadcast(start, 0)
    step = resumed = int(start)
    last = int(os.environ.get("STEPS", "0"))
    while not last or step < last:
        step += 1
        # How many want to leave; every rank comes to the same decision at the same step.
        wanted = torch.tensor([float(bool(leaving))])
        dist.all_reduce(wanted)
        if rank == 0:
            report(step=step, totalSteps=last, resumedFromStep=resumed, loss=1 / step)
        if what == "rank0ends" or rank == int(os.environ.get("WHO", "1")):
            misbehave(what, step)
        if wanted.item() > 0:
            if rank == 0:
                saved.write_text(str(step))
            dist.barrier()
            sys.exit(143 if leaving else 75)
        time.sleep(PAUSE)  # the work of a step
    if rank == 0:
        saved.write_text(str(step))
    dist.barrier()


def report(**line: float) -> None:
    descriptor = os.open(os.environ["MUSTER_REPORT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, json.dumps(line).encode() + b"\n")
    os.close(descriptor)


def misbehave(what: str, step: int) -> None:
    first_life = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if what == "raise" and first_life and step == 5:
        raise ValueError("a bad batch")
    if what == "rank0ends" and step == 5:
        if os.environ["RANK"] != "0":
            signal.pause()
        sys.exit(0)
    if what == "hang" and first_life and step == 5:
        os.kill(os.getpid(), signal.SIGSTOP)
    if what == "exit2" and step == 5:
        sys.exit(2)
    if what == "exit5" and first_life and step == 5:
        sys.exit(5)


if __name__ == "__main__":
    run(sys.argv[1] if len(sys.argv) > 1 else "count")
