"""Memory that is freed and taken again costs no page faults."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import resource, sys
from muster_worker.train.memory import keep_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    blocks = [bytearray(b"x") * (4 << 20) for _ in range(8)]

if sys.argv[1] == "keep":
    keep_memory()
step()
step()
before = faults()
step()
print(faults() - before)
"""


def faults_of_a_step(word):
    done = subprocess.run([sys.executable, "-c", PROGRAM, word], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_step_takes_what_the_last_one_has_freed():
    pages = 8 * (4 << 20) // 4096
    assert faults_of_a_step("keep") < pages / 100
    assert faults_of_a_step("as ever") > pages / 10, "else nothing has to be done any more"
