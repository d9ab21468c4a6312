"""The example programs run as torchrun would start them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import free_ports
from tests.worker.train.ranks import LIMIT

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture
def run(tmp_path):
    """Runs an example with two ranks; gives their outputs."""
    processes = []

    def start(program, *arguments):
        group = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(*free_ports(1)),
            "WORLD_SIZE": "2",
            "USE_LIBUV": "0",
            "OMP_NUM_THREADS": "1",
            "MUSTER_REPORT": str(tmp_path / "report"),
        }
        processes.extend(
            subprocess.Popen(
                [sys.executable, EXAMPLES / program, *arguments],
                env=os.environ | group | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        )
        results = [process.communicate(timeout=LIMIT) for process in processes]
        assert [process.returncode for process in processes] == [0, 0], results
        return [output for output, _ in results]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_the_articles_program_prints_the_parameters_of_ten_steps_on_rank_0(run):
    first, second = run("article/train.py")
    assert re.findall(r"^step (\d+) of 10, 2 ranks: \[tensor\(", first, re.MULTILINE) == [str(n) for n in range(1, 11)]
    assert "step" not in second


def test_the_articles_inference_divides_the_samples_and_prints_on_rank_0(run):
    first, second = run("article/infer.py")
    assert re.search(r"^8 samples, 2 ranks: \[\d(, \d){7}\]$", first, re.MULTILINE)
    assert "samples" not in second


@pytest.mark.long
def test_the_plain_script_learns_and_reports(run, tmp_path):
    first, _ = run("script/train.py", "--epochs", "3")
    learned = json.loads(re.search(r"learned (\S+ \S+ \S+) wanted", first)[1])
    assert learned[0] == pytest.approx([2.0, -3.0, 0.5], abs=0.05)
    reports = [json.loads(line) for line in (tmp_path / "report").read_text().splitlines()]
    assert [line["step"] for line in reports] == [32, 64, 96]
    assert reports[-1]["totalSteps"] == 96
