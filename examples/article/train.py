"""The article's training program (4.1), in a version that runs. Where a call was corrected, a comment says so.

torchrun --nproc-per-node 2 train.py
"""

import torch
import torch.distributed as dist


def init_processes() -> None:
    # Printed as dist.init_processes('env', rank, world_size), which torch does not have. With env:// the rank,
    # the world size and the address of rank 0 come from the environment, where torchrun and Muster put them.
    dist.init_process_group("gloo", init_method="env://")


def init_params() -> list[torch.Tensor]:
    param1 = torch.randn(100, requires_grad=True)
    param2 = torch.randn(100, requires_grad=True)
    # Not in the article: without it every rank would train random parameters of its own.
    with torch.no_grad():
        for param in (param1, param2):
            dist.broadcast(param, src=0)
    return [param1, param2]


def train_step(params: list[torch.Tensor]) -> list[torch.Tensor]:
    param1, param2 = params
    # In place on a leaf that requires gradients: torch refuses it outside of no_grad().
    with torch.no_grad():
        param1 += 0.01 * param1
        param2 += 0.01 * param2
    return [param1, param2]


def main() -> None:
    # First: there is no rank before the process group. Printed the other way round, with
    # torch.distributed.rank() and world_size(), which are get_rank() and get_world_size().
    init_processes()
    rank = dist.get_rank()
    world_size = dist.get_world_size()
    params = init_params()
    for i in range(10):
        params = train_step(params)
        if rank == 0:
            print(f"step {i + 1} of 10, {world_size} ranks:", params, flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
