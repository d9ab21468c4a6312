"""A plain torchrun script: several processes fit a plane through noisy points. It knows nothing of Muster.

    torchrun --nproc-per-node 2 train.py --epochs 20

Three lines, marked below, are all that progress in `kubectl get trainingjobs` takes; without MUSTER_REPORT they
do nothing.
"""

import argparse
import json
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

WEIGHTS = torch.tensor([[2.0], [-3.0], [0.5]])


def points(count: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 3, generator=generator)
    return TensorDataset(inputs, inputs @ WEIGHTS + 0.1 * torch.randn(count, 1, generator=generator))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    epochs = parser.parse_args().epochs

    dist.init_process_group("gloo")
    dataset = points(4096, seed=0)
    sampler = DistributedSampler(dataset)
    loader = DataLoader(dataset, batch_size=64, sampler=sampler)
    model = DistributedDataParallel(nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    step, total_steps = 0, epochs * len(loader)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for inputs, targets in loader:
            loss = nn.functional.mse_loss(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
        if dist.get_rank() == 0:
            print(f"epoch {epoch + 1} of {epochs}: loss {loss.item():.4f}", flush=True)
            progress = {"epoch": epoch + 1, "step": step, "totalSteps": total_steps, "loss": loss.item()}  # 1
            with Path(os.environ.get("MUSTER_REPORT", os.devnull)).open("a") as report:  # 2
                report.write(json.dumps(progress) + "\n")  # 3

    if dist.get_rank() == 0:
        print("learned", model.module.weight.tolist(), "wanted", WEIGHTS.T.tolist(), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
