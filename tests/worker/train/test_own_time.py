"""What is a rank's own time, and what is that of those for whom it waits."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from muster_worker.train import own_time
from muster_worker.train.own_time import Awake, UpToTheFirstWait


def compute(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def spent(clock, work):
    began = clock()
    work()
    return clock() - began


@pytest.fixture
def busy_core():
    """The one core that this thread has; another process computes there too."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    busy = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    with subprocess.Popen(busy, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield
        process.kill()
    os.sched_setaffinity(0, cores)


def test_waiting_is_not_computing():
    clock = Awake()
    assert spent(clock, lambda: time.sleep(0.2)) < 0.05
    assert spent(clock, lambda: compute(0.2)) >= 0.2


def test_who_gets_no_core_would_compute(busy_core):
    clock = Awake()
    began = time.monotonic()
    took = spent(clock, lambda: compute(0.2))
    gone_by = time.monotonic() - began
    assert gone_by > 0.3, "others have the core too"
    assert 0.9 * gone_by < took <= gone_by + 0.01


def test_reading_counts_though_one_waits_for_it():
    def slow_disk():
        for number in range(4):
            time.sleep(0.05)
            yield number

    clock = Awake()
    read = []
    assert 0.2 <= spent(clock, lambda: read.extend(clock.reading(slow_disk()))) < 0.4
    assert read == [0, 1, 2, 3]


def test_without_the_kernels_word_it_is_what_is_computed(monkeypatch):
    monkeypatch.setattr(own_time, "_WAITED", "/proc/thread-self/not-there")
    clock = Awake()
    assert spent(clock, lambda: time.sleep(0.1)) < 0.05
    assert spent(clock, lambda: compute(0.1)) >= 0.1


def test_up_to_the_first_wait_all_time_counts():
    clock = UpToTheFirstWait()
    assert spent(clock, lambda: time.sleep(0.05)) >= 0.05
    assert list(clock.reading(iter([1, 2]))) == [1, 2]
