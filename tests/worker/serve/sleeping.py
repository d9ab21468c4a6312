"""Recipes whose models hang, or end their processes."""

from __future__ import annotations

import os
import time

import torch
from torch import nn

from tests.worker.train.recipes import Line


class Sleeper(nn.Module):
    """Cannot be exported; takes an hour for negative points, and a thread's worth of time for others."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 1)

    def forward(self, points):
        time.sleep(3600 if points.sum() < 0 else 0.001)
        return self.linear(points)


class Sleeping(Line):
    def model(self):
        return Sleeper()


class Mortal(Sleeper):
    """The process ends with negative points."""

    def forward(self, points):
        if points.sum() < 0:
            os._exit(3)
        return super().forward(points)


class Dying(Line):
    def model(self):
        return Mortal()


class Failing(Sleeper):
    """As on a GPU after an assertion of its own: once there were negative points, nothing is computed any more."""

    def __init__(self):
        super().__init__()
        self._failed = False

    def forward(self, points):
        self._failed |= bool(points.sum() < 0)
        if self._failed:
            raise torch.AcceleratorError("device-side assert triggered")
        return super().forward(points)


class OnFailingDevice(Line):
    def model(self):
        return Failing()


class Loading(Line):
    """Its model takes an hour to be made."""

    def model(self):
        time.sleep(3600)


class Ponderer(nn.Module):
    """Cannot be exported; with gradients, takes as many seconds as the first number says."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 1)

    def forward(self, points):
        if points.isfinite().all() and points.requires_grad:
            time.sleep(points[0, 0].item())
        return self.linear(points)


class Pondering(Line):
    def model(self):
        return Ponderer()
