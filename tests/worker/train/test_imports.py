"""What may be imported before ranks are forked has no side effects."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def run(program):
    """As the agent imports: it decides on the threads of BLAS before."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60, env=environment
    )


@pytest.mark.long
@pytest.mark.parametrize("module", ["muster_worker.train.main", "muster_worker.recipes.digits"])
def test_importing_starts_no_thread_and_prints_nothing(module):
    result = run(f"import os, {module}; print(len(os.listdir('/proc/self/task')))")
    assert result.stdout == "1\n"
    assert result.stderr == ""


def test_the_recipe_interface_and_the_sample_log_need_no_torch():
    result = run("import sys, muster_worker.train, muster_worker.train.sample_log; print('torch' in sys.modules)")
    assert result.stdout == "False\n"
