"""The training that one would write without Muster: DDP, a DataLoader, a loop. `script.py MODULE:CLASS` under torchrun.

Only what is trained comes from the recipe.
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from muster_worker.train.reference import load_recipe
from tests.bench.throughput import libuv


def main() -> None:
    recipe = load_recipe(sys.argv[1], "{}")
    libuv.do_without()
    dist.init_process_group("gloo")
    torch.manual_seed(recipe.config.seed)
    model = DistributedDataParallel(recipe.model())
    optimizer = recipe.optimizer(model.parameters(), recipe.learning_rate)
    training, _ = recipe.datasets()
    sampler = DistributedSampler(training, seed=recipe.config.seed)
    for input_, target in DataLoader(training, recipe.config.batch_size // dist.get_world_size(), sampler=sampler):
        optimizer.zero_grad()
        recipe.loss(model(input_), target).backward()
        optimizer.step()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
