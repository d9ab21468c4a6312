from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from tests.worker.train import ranks


@pytest.fixture
def start_ranks(tmp_path):
    """`ranks.start` with storages under tmp_path by name; whatever is still running is killed at the end."""
    started = []

    def start(storage="storage", count=2, **options):
        chosen = [tmp_path / name for name in storage] if isinstance(storage, list) else tmp_path / storage
        group = ranks.start(chosen, count, **options)
        started.append(group)
        return group

    yield start
    for group in started:
        group.stop()


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="there is no GPU here"))


@pytest.fixture
def lone_rank():
    """`torch.distributed` in this process, with this process as the only rank."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()
