"""What the audit counts while ranks are still writing."""

from __future__ import annotations

import json

import pytest

from muster_worker.train.sample_log import SampleLog, surviving_epochs


@pytest.fixture
def written(tmp_path):
    """Writes a run of two ranks that have come so far; returns the directory."""

    def write(run_id, *steps, start=0, rest=""):
        for rank, last in enumerate(steps):
            log = SampleLog(tmp_path, run_id=run_id, rank=rank, world_size=2, step=start)
            for step in range(start + 1, last + 1):
                log.write(epoch=1, step=step, samples=[10 * step + rank])
            with (tmp_path / f"{run_id}-{rank}.jsonl").open("a") as file:
                file.write(rest)
        return tmp_path

    return write


def test_a_step_that_not_all_ranks_have_written_does_not_count_yet(written):
    assert sorted(surviving_epochs(written("a", 3, 2))[1]) == [10, 11, 20, 21]


def test_half_a_line_is_no_line(written):
    assert sorted(surviving_epochs(written("a", 1, 1, rest=json.dumps({"epoch": 1})[:5]))[1]) == [10, 11]


def test_a_run_that_not_all_ranks_have_begun_takes_nothing_from_the_one_before(written):
    written("a", 3, 3)
    assert sorted(surviving_epochs(written("b", 4, start=2))[1]) == [10, 11, 20, 21]
