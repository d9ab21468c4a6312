"""A small recipe for parameter servers: its ranks write down their process, and a step takes a moment."""

import os
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from muster_worker.train import Recipe


class Plane(Recipe):
    learning_rate = 0.01

    def model(self):
        (Path(os.environ["TEST_FOLDER"]) / f"pid-{os.getpid()}").write_text(str(os.getpid()))
        if os.environ.get("FAILS") and os.environ["RANK"] == os.environ["FAILS"]:
            raise ValueError("a bad graphics card")
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def datasets(self):
        points = torch.randn(64, 4)
        return TensorDataset(points, points.sum(dim=1, keepdim=True)), None

    def loss(self, output, target):
        time.sleep(0.02)
        return functional.mse_loss(output, target)
