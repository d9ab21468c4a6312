"""Small recipes for tests."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import time
import warnings
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

import torch
from torch import distributed, nn
from torch.nn import functional
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from muster_worker.train import Config, Recipe, checkpoint, precision, setting


@dataclass(frozen=True, kw_only=True)
class LineConfig(Config):
    epochs: int = setting(3, minimum=1)
    batch_size: int = setting(8, minimum=1)
    samples: int = setting(50, minimum=0)
    dropout: float = setting(0.0, minimum=0.0, maximum=1.0)


class Line(Recipe):
    """Learns a plane through noisy points: four numbers in, one out."""

    config_type = LineConfig
    learning_rate = 0.05

    def model(self):
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(self.config.dropout), nn.Linear(5, 1))

    def datasets(self):
        return self._points(self.config.samples), self._points(17)

    def _points(self, count):
        inputs = torch.randn(count, 4)
        return TensorDataset(inputs, inputs @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]]) + 0.1 * torch.randn(count, 1))

    def loss(self, output, target):
        return functional.mse_loss(output, target)

    def metrics(self, output, target):
        return {"accuracy": (output.sign() == target.sign()).float().mean()}

    def optimizer(self, parameters, learning_rate):
        return torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9)


class WideLine(Line):
    def model(self):
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(self.config.dropout), nn.Linear(6, 1))


class Growing(Line):
    """Slowly, and so by its own metric, which is better when lower, it is best at first."""

    learning_rate = 0.002

    def metrics(self, output, target):
        return {"size": output.abs().mean()}


class MeasuredLate(Growing):
    """Its metric is no number in the first epoch."""

    def model(self):
        self._steps = [0]
        model = super().model()
        model.register_forward_pre_hook(self._count)
        return model

    def _count(self, model, _inputs):
        self._steps[0] += model.training

    def metrics(self, output, target):
        size = super().metrics(output, target)["size"]
        return {"size": size if self._steps[0] > 7 else size * math.nan}


class WithNothing(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 1)

    def forward(self, points):
        return self.linear(points), None


class TwoFold(Line):
    """Its model gives something beside its results that cannot be told to a client."""

    def model(self):
        return WithNothing()

    def loss(self, output, target):
        return super().loss(output[0], target)

    def metrics(self, output, target):
        return super().metrics(output[0], target)


class UnvalidatedTwoFold(TwoFold):
    def datasets(self):
        return self._points(self.config.samples), None


class MeasuredApart(Line):
    """Of each sample by itself."""

    def metrics(self, output, target):
        return {"error": (output - target).abs().squeeze(1)}


class LostApart(Line):
    def loss(self, output, target):
        return functional.mse_loss(output, target, reduction="none")


class LostAsANumber(Line):
    def loss(self, output, target):
        return super().loss(output, target).item()


class MeasuredAsText(Line):
    def metrics(self, output, target):
        return {"error": "small"}


class MeasuredByNothing(Line):
    def metrics(self, output, target):
        self.seen = output


class Untrained(Line):
    def model(self):
        return super().model().requires_grad_(False)


class SecondOrder(Line):
    def optimizer(self, parameters, learning_rate):
        return torch.optim.LBFGS(parameters, lr=learning_rate)


class Diverging(Line):
    learning_rate = 1e30


class Unvalidated(Line):
    def datasets(self):
        return self._points(self.config.samples), None


class ValidatedByNothing(Line):
    def datasets(self):
        return self._points(self.config.samples), self._points(0)


class Streamed(Line):
    def datasets(self):
        training, validation = super().datasets()
        return Stream(training), validation


class Stream(IterableDataset):
    def __init__(self, samples):
        self._samples = samples

    def __iter__(self):
        return iter(self._samples)


class Named(Line):
    """Its samples are dicts."""

    def datasets(self):
        return tuple([{"points": points, "height": height} for points, height in one] for one in super().datasets())


class NamedInputs(Line):
    def datasets(self):
        return tuple([({"points": points}, height) for points, height in one] for one in super().datasets())


class SingleSet(Line):
    def datasets(self):
        return self._points(self.config.samples)


class Normed(Line):
    """A layer's weight is computed from two parameters, by torch's older way to do so."""

    def model(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 1))


class Heights(NamedTuple):
    height: torch.Tensor
    weight: torch.Tensor


class Weighed(Line):
    """Its targets have names, and its metrics are plain numbers."""

    def datasets(self):
        training, validation = super().datasets()
        named = [(points, Heights(height, torch.ones(1))) for points, height in training]
        return named, [(points, Heights(height, torch.ones(1))) for points, height in validation]

    def loss(self, output, target):
        return (target.weight * (output - target.height) ** 2).mean()

    def metrics(self, output, target):
        return {name: value.item() for name, value in super().metrics(output, target.height).items()}


class DataDependent(nn.Module):
    """Cannot be exported: its control flow depends on values."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 1)

    def forward(self, points):
        return self.linear(points if points.sum() > 0 else -points)


class Unexportable(Line):
    def model(self):
        return DataDependent()


class Two(nn.Module):
    """Two inputs, two outputs by name, parameters that share memory, a running statistic."""

    def __init__(self):
        super().__init__()
        self.left = nn.Linear(4, 4)
        self.right = nn.Linear(4, 4)
        self.right.weight = self.left.weight
        self.norm = nn.BatchNorm1d(4)

    def forward(self, first, second):
        both = self.norm(self.left(first) + self.right(second))
        return {"sum": both.sum(dim=1, keepdim=True), "both": both}


class Pair(Line):
    def model(self):
        return Two()

    def datasets(self):
        points = self._points(self.config.samples)
        pairs = [((inputs, -inputs), target) for inputs, target in points]
        return pairs, pairs[:5]

    def loss(self, output, target):
        return functional.mse_loss(output["sum"], target)

    def metrics(self, output, target):
        return {}


class NoRecipe:
    pass


class Unfinished(Recipe):
    def model(self):
        return nn.Linear(1, 1)


class Slow(Line):
    """On one rank, each batch takes longer."""

    def model(self):
        return nn.Sequential(Waiting(), super().model())


class Waiting(nn.Module):
    def forward(self, points):
        if self.training:
            time.sleep(0.03 if os.environ["RANK"] == "1" else 0.01)
        return points


class NoRoom(Line):
    """On a storage with room for a report, but not for a checkpoint."""

    def model(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        return super().model()


class SlowToWrite(Line):
    """On one pod, each checkpoint takes three seconds longer to be written."""

    def model(self):
        written = checkpoint.write_json

        def write_json(path, content):
            time.sleep(3.0 if os.environ["GROUP_RANK"] == "1" else 0.0)
            written(path, content)

        checkpoint.write_json = write_json
        return super().model()


class Block(nn.Module):
    """Adds to points (N, width) what two layers make of them."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, points):
        return points + self.down(functional.gelu(self.up(self.norm(points))))


class Tower(nn.Module):
    """Blocks between two layers; `counts`: with a running statistic that no gradient reaches."""

    def __init__(self, width, blocks, *, counts):
        super().__init__()
        self.first = nn.Linear(4, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.last = nn.Linear(width, 1)
        self.register_buffer("seen", torch.zeros(1) if counts else None)

    def forward(self, points):
        if self.training and self.seen is not None:
            self.seen += 1
        hidden = self.first(points)
        for block in self.blocks:
            hidden = block(hidden)
        return self.last(hidden)


@dataclass(frozen=True, kw_only=True)
class DeepConfig(LineConfig):
    width: int = setting(8, minimum=1)
    blocks: int = setting(3, minimum=1)


class Deep(Line):
    """One that every strategy can divide."""

    config_type = DeepConfig
    learning_rate = 0.01
    counts = False

    def model(self):
        return Tower(self.config.width, self.config.blocks, counts=self.counts)

    def optimizer(self, parameters, learning_rate):
        return torch.optim.AdamW(parameters, lr=learning_rate)

    def tensor_plan(self, model):
        del model
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

        return {"blocks.*.up": ColwiseParallel(), "blocks.*.down": RowwiseParallel()}

    def pipeline_layers(self, model):
        return [model.first, *model.blocks, model.last]


class SlowToRead(Deep):
    """On one rank, each sample takes a millisecond to read."""

    def datasets(self):
        training, validation = super().datasets()
        return SlowDisk(training), validation


class SlowDisk(Dataset):
    def __init__(self, samples):
        self._samples = samples

    def __len__(self):
        return len(self._samples)

    def __getitem__(self, index):
        time.sleep(0.001 if os.environ["RANK"] == "1" else 0)
        return self._samples[index]


class SlowToCompute(Deep):
    """On one rank, each block computes for some milliseconds more."""

    def model(self):
        model = super().model()
        for block in model.blocks:
            block.register_forward_pre_hook(computes_long)
        return model


def computes_long(*_):
    end = time.thread_time() + (0.004 if os.environ["RANK"] == "1" else 0)
    while time.thread_time() < end:
        pass


class SlowToMeasure(Deep):
    """Says when it measures samples, which takes PAUSE seconds each time."""

    def metrics(self, output, target):
        print("measuring", flush=True)
        time.sleep(float(os.environ.get("PAUSE", "0")))
        return super().metrics(output, target)


class Impatient(SlowToMeasure):
    """Once something was measured, ranks wait for each other no longer than five seconds, instead of half an hour."""

    def metrics(self, output, target):
        if distributed.is_initialized():
            distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=5))
        return super().metrics(output, target)


class Unhurried(Deep):
    """Each step takes a worker a second, in which its servers ask one another hundreds of times."""

    def model(self):
        from muster_worker.train.parameter_server import server_trainer  # of gRPC, which does not survive a fork

        server_trainer.LOOK_EVERY = 0.001
        model = super().model()
        model.register_forward_pre_hook(lambda module, _: time.sleep(1.0 if module.training else 0.0))
        return model


class Steep(Deep):
    """By an optimizer whose steps are as long as the gradient is, unlike Adam's."""

    def optimizer(self, parameters, learning_rate):
        return torch.optim.SGD(parameters, lr=learning_rate)


class Scaled(Deep):
    """With the scaling of float16, though it computes in float32: on CPUs ranks cannot add up what float16 is."""

    def __init__(self, config):
        super().__init__(config)
        made = precision.Precision
        made.on = lambda device, _, layout: made(torch.float16, device.type, divided=layout.divides)
        made.forward = lambda _: contextlib.nullcontext()


class Counting(Deep):
    """With a statistic of the whole model, which no stage of a pipeline has."""

    counts = True


class Decaying(Deep):
    """Large matrices decay, all else does not, by an optimizer that takes many parameters at once, as on GPUs."""

    def optimizer(self, parameters, learning_rate):
        groups = {True: [], False: []}
        for parameter in parameters:
            groups[parameter.ndim > 1 and parameter.numel() > 100].append(parameter)
        decaying = [{"params": groups[True], "weight_decay": 0.5}, {"params": groups[False], "weight_decay": 0.0}]
        return torch.optim.AdamW(decaying, lr=learning_rate, foreach=True)


class TrainedAtItsEnd(Deep):
    """Its optimizer is given what is trained alone."""

    def model(self):
        model = super().model()
        for part in (model.first, *model.blocks[:-1]):
            part.requires_grad_(False)
        return model

    def optimizer(self, parameters, learning_rate):
        return torch.optim.AdamW([one for one in parameters if one.requires_grad], lr=learning_rate)


class Lost(Deep):
    def pipeline_layers(self, model):
        return [model.first, *model.blocks[1:], model.last]


class Tied(Deep):
    def pipeline_layers(self, model):
        return [model.first, *model.blocks, model.first]


class SharingALayer(Line):
    """Two of its layers have one weight."""

    def model(self):
        layers = [nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 4)]
        model = nn.Sequential(*layers, nn.Linear(4, 4), nn.Linear(4, 1))
        model[5].weight = model[0].weight
        return model

    def tensor_plan(self, model):
        del model
        from torch.distributed.tensor import Replicate
        from torch.distributed.tensor.parallel import RowwiseParallel

        return {"5": RowwiseParallel(input_layouts=Replicate())}


class Normalised(Line):
    """Keeps running statistics of what its first layer gives, in which each rank differs until all take one's."""

    def model(self):
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 1))

    def tensor_plan(self, model):
        del model
        from torch.distributed.tensor import Replicate
        from torch.distributed.tensor.parallel import RowwiseParallel

        return {"3": RowwiseParallel(input_layouts=Replicate())}

    def pipeline_layers(self, model):
        return list(model)


class Reassigning(Line):
    """Keeps the mean of what it has been given last, each time in another tensor, and gives what differs from it."""

    def model(self):
        return Centred()


class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 1)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, points):
        if self.training:
            self.mean = points.mean(dim=0)
        return self.linear(points - self.mean)


class ReachedLate(Line):
    """Has a layer that is not called in the first ten steps."""

    def model(self):
        return Growth()

    def optimizer(self, parameters, learning_rate):
        return torch.optim.AdamW(parameters, lr=learning_rate)


class Growth(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 1), nn.Linear(4, 1)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, points):
        self.seen += self.training
        return self.first(points) + (self.second(points) if self.seen > 10 else 0)


class ReachedInTurns(ReachedLate):
    """Has a layer that is called for every other batch."""

    def model(self):
        return Alternating()


class Alternating(Growth):
    def forward(self, points):
        self.seen += self.training
        return self.first(points) + (self.second(points) if self.seen % 2 == 1 else 0)


class Frozen(ReachedLate):
    """Has a layer that is not trained."""

    def model(self):
        model = super().model()
        model.second.requires_grad_(False)
        return model


class Experts(Line):
    """Each point has one of two layers made for its like, which is called where there is such a point."""

    def model(self):
        return nn.Sequential(Routed(), nn.Tanh(), nn.Linear(5, 1))

    def pipeline_layers(self, model):
        return list(model)


class Routed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(4, 5)

    def forward(self, points):
        is_first = points[:, :1] > 0
        if is_first.all():
            return self.first(points)
        if not is_first.any():
            return self.second(points)
        return torch.where(is_first, self.first(points), self.second(points))


class Logits(Deep):
    """Says of a point on which side of the plane it is: the logits of two classes."""

    def model(self):
        tower = super().model()
        tower.last = nn.Linear(self.config.width, 2)
        return tower

    def datasets(self):
        return tuple(
            TensorDataset(points, (values > 0).long().squeeze(1))
            for points, values in (dataset.tensors for dataset in super().datasets())
        )

    def loss(self, output, target):
        return functional.cross_entropy(output, target)

    def metrics(self, output, target):
        return {"accuracy": (output.argmax(dim=1) == target).float().mean()}
