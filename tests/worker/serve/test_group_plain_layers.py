"""Divided layers without DTensor: they compute what they did, and others are left as they are."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from muster_worker.serve.group.plain_layers import divide_plainly


@pytest.fixture
def mesh(tmp_path):
    """Of one rank, which has all parts; groups of several are in test_group_parallel."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


class Scaled(nn.Linear):
    def forward(self, inputs):
        return 2 * super().forward(inputs)


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4, bias=False), nn.Linear(4, 6), Scaled(6, 3))


def divided_plainly(model, plan, mesh):
    others = divide_plainly(model, plan, mesh)
    parallelize_module(model, mesh, others)
    return model, list(others)


def divided(model):
    return {name for name, parameter in model.named_parameters() if isinstance(parameter, DTensor)}


def test_layers_by_columns_and_by_rows_compute_the_same_without(mesh):
    inputs = torch.randn(2, 3, 4)
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel(), "3": ColwiseParallel()}
    plain, others = divided_plainly(model(), plan, mesh)
    assert others == []
    assert divided(plain) == set()
    with torch.inference_mode():
        assert torch.equal(plain(inputs), model()(inputs))


def test_layers_that_are_told_otherwise_or_compute_otherwise_stay(mesh):
    inputs = torch.randn(2, 4)
    plan = {"0": ColwiseParallel(output_layouts=Shard(0)), "4": RowwiseParallel()}
    kept, others = divided_plainly(model(), plan, mesh)
    assert others == ["0", "4"]
    assert divided(kept) == {"0.weight", "0.bias", "4.weight", "4.bias"}
    with torch.inference_mode():
        torch.testing.assert_close(kept(inputs), model()(inputs))
