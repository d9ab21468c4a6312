"""The process that ranks are forked from."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

SLOW = """
import time

time.sleep(0.5)


def wait(_):
    time.sleep(60)
"""
PROGRAM = """
import json, os, signal, socket, sys
from muster_worker.agent.zygote import fork_zygote

_, channel = fork_zygote(["slow"], sys.argv[1], 1)
output, given = os.pipe()
start = {"name": "1.0", "environment": {}} | json.loads(sys.argv[2])
socket.send_fds(channel, [json.dumps(start).encode()], [given])
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
