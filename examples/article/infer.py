"""The article's inference program (4.2), in a version that runs. Where a call was corrected, a comment says so.

torchrun --nproc-per-node 2 infer.py
"""

import pathlib
import tempfile

import torch
import torch.distributed as dist
from torch import nn

FEATURES, CLASSES, SAMPLES = 100, 10, 8


def init_processes() -> None:
    # Printed as dist.init_processes('env', rank, world_size), which torch does not have.
    dist.init_process_group("gloo", init_method="env://")


def save_model(path: pathlib.Path) -> None:
    """Not in the article: somebody has to have trained it."""
    torch.manual_seed(0)
    torch.save(nn.Linear(FEATURES, CLASSES).state_dict(), path)


def load_model(path: pathlib.Path) -> nn.Module:
    # torch.load('model.pth') of a whole model unpickles it, and with it whatever code is in the file; since torch 2.6
    # it refuses. Weights alone are data, and the model is made here.
    model = nn.Linear(FEATURES, CLASSES)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def init_data(rank: int) -> torch.Tensor:
    # Printed as torch.randn(100) in every process: each would have computed all of something else. One makes the
    # samples, and all have the same.
    data = torch.randn(SAMPLES, FEATURES) if rank == 0 else torch.empty(SAMPLES, FEATURES)
    dist.broadcast(data, src=0)
    return data


def inference(model: nn.Module, data: torch.Tensor) -> torch.Tensor:
    # Without it, torch remembers what it would need for training.
    with torch.inference_mode():
        return model(data)


def main() -> None:
    # First: there is no rank before the process group. Printed the other way round, with
    # torch.distributed.rank() and world_size(), which are get_rank() and get_world_size().
    init_processes()
    rank, world_size = dist.get_rank(), dist.get_world_size()
    with tempfile.TemporaryDirectory() as place:
        save_model(pathlib.Path(place) / "model.pth")
        model = load_model(pathlib.Path(place) / "model.pth")
    data = init_data(rank)
    # In the article every process computes everything. Here each computes its share, and rank 0 gathers them.
    mine = inference(model, data.tensor_split(world_size)[rank])
    shares: list[torch.Tensor | None] = [None] * world_size
    dist.gather_object(mine, shares if rank == 0 else None)
    if rank == 0:
        output = torch.cat([share for share in shares if share is not None])
        assert torch.allclose(output, inference(model, data), atol=1e-5)
        print(f"{len(output)} samples, {world_size} ranks:", output.argmax(dim=1).tolist(), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
