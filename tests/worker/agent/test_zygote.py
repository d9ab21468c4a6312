"""The process that ranks are forked from."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

READING = """
import signal, sys
from torch.utils.data import DataLoader

told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(True))
batches = iter(DataLoader(range(10**9), num_workers=2, multiprocessing_context="fork"))
next(batches)
print("reading", flush=True)
while not told:
    next(batches)
for _ in range(100):  # the rest of its step
    next(batches)
sys.exit(143)
"""
SLOW = """
import time

time.sleep(0.5)


def wait(_):
    time.sleep(60)
"""
PROGRAM = """
import json, os, signal, socket, sys
from muster_worker.agent.zygote import fork_zygote

until_it_prints = "print" in sys.argv

_, channel = fork_zygote(["slow"], sys.argv[1], 1)
output, given = os.pipe()
start = {"name": "1.0", "environment": {}} | json.loads(sys.argv[2])
socket.send_fds(channel, [json.dumps(start).encode()], [given])
if until_it_prints:
    os.read(output, 100)
channel.send(json.dumps({"signal": int(signal.SIGTERM)}).encode())
for _ in ("started", "ended"):
    print(channel.recv(1000).decode(), flush=True)
"""


@pytest.mark.parametrize(
    "what", [{"call": ["slow:wait", ""]}, {"command": ["sleep", "60"]}], ids=["a recipe", "a program"]
)
def test_a_rank_that_is_told_to_leave_before_it_runs_leaves(tmp_path, what):
    (tmp_path / "slow.py").write_text(SLOW)
    words = [sys.executable, "-c", PROGRAM, str(tmp_path), json.dumps(what)]
    told = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    started, ended = map(json.loads, told)
    assert started["started"] == "1.0"
    assert ended == {"ended": "1.0", "pid": started["pid"], "status": -signal.SIGTERM}


def test_a_program_that_is_told_to_leave_still_has_the_processes_that_read_for_it(tmp_path):
    (tmp_path / "slow.py").write_text("")
    (tmp_path / "reading.py").write_text(READING)
    what = {"command": [sys.executable, str(tmp_path / "reading.py")]}
    words = [sys.executable, "-c", PROGRAM, str(tmp_path), json.dumps(what), "print"]
    told = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    assert json.loads(told[-1])["status"] == 143
