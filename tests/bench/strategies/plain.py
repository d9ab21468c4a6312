"""What one would write without Muster, by torch's own parts: `plain.py STRATEGY MODULE:CLASS` under torchrun.

Only what is trained comes from the recipe, and how its layers are divided.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from muster_worker.train.reference import load_recipe
from tests.bench.throughput import libuv

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from muster_worker.train import Recipe

    Step = Callable[[Tensor, Tensor], None]

SHARE_DATA = ("ddp", "fsdp")


def main() -> None:
    strategy, reference = sys.argv[1:]
    recipe = load_recipe(reference, "{}")
    libuv.do_without()
    dist.init_process_group("gloo")
    torch.manual_seed(recipe.config.seed)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    trained, step = divided(strategy, recipe, recipe.model(), rank, ranks)
    parameters = list(trained.parameters())
    # An optimizer that takes many at once does not take divided and whole ones together.
    groups = [[one for one in parameters if isinstance(one, DTensor) == kind] for kind in (True, False)]
    optimizer = recipe.optimizer([{"params": group} for group in groups if group], recipe.learning_rate)
    training, _ = recipe.datasets()
    shares = ranks if strategy in SHARE_DATA else 1
    sampler = DistributedSampler(training, shares, rank % shares, seed=recipe.config.seed)
    for input_, target in DataLoader(training, recipe.config.batch_size // shares, sampler=sampler):
        optimizer.zero_grad()
        step(input_, target)
        optimizer.step()
    dist.destroy_process_group()


def divided(strategy: str, recipe: Recipe, model: Any, rank: int, ranks: int) -> tuple[nn.Module, Step]:
    """The part of the model that this rank has, and what computes its gradients."""
    if strategy == "pipeline":
        return staged(recipe, model, rank, ranks)
    if strategy == "ddp":
        model = DistributedDataParallel(model)
    elif strategy == "fsdp":
        for block in model.blocks:
            fully_shard(block)
        fully_shard(model)
    else:
        parallelize_module(model, init_device_mesh("cpu", (ranks,)), recipe.tensor_plan(model))

    def step(input_: Tensor, target: Tensor) -> None:
        recipe.loss(model(input_), target).backward()

    return model, step


def staged(recipe: Recipe, model: nn.Module, rank: int, ranks: int) -> tuple[nn.Module, Step]:
    """With equally many layers in each stage, and two pieces of a batch for each stage."""
    layers = recipe.pipeline_layers(model)
    bounds = [len(layers) * number // ranks for number in range(ranks + 1)]
    stage = nn.Sequential(*layers[bounds[rank] : bounds[rank + 1]])
    schedule = Schedule1F1B(PipelineStage(stage, rank, ranks, torch.device("cpu")), 2 * ranks, loss_fn=recipe.loss)

    def step(input_: Tensor, target: Tensor) -> None:
        schedule.step(*([input_] if rank == 0 else []), target=target if rank == ranks - 1 else None)

    return stage, step


if __name__ == "__main__":
    main()
