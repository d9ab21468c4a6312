"""Recipes of a small transformer that can be divided, and of some that cannot."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel
from torch.nn import functional

from tests.worker.train.recipes import Line

WIDTH, HEAD, PLACES = 16, 4, 6


class Entry(nn.Module):
    """Four numbers become as many vectors as there are places; of negative ones it knows nothing."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, PLACES * WIDTH)

    def forward(self, points):
        if points.sum() < 0:
            raise ValueError("negative")
        return self.linear(points).unflatten(1, (PLACES, WIDTH))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.second_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, places):
        normal = self.norm(places)
        query, key, value = (
            linear(normal).unflatten(2, (-1, HEAD)).transpose(1, 2) for linear in (self.query, self.key, self.value)
        )
        seen = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        places = places + self.out(seen)
        return places + self.down(functional.gelu(self.up(self.second_norm(places))))


class Exit(nn.Module):
    """Two outputs by name."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, 2)

    def forward(self, places):
        both = self.linear(places.mean(dim=1))
        return {"output": both, "larger": both.argmax(dim=1)}


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.entry, self.blocks, self.exit = Entry(), nn.ModuleList(Block() for _ in range(3)), Exit()

    def forward(self, points):
        places = self.entry(points)
        for block in self.blocks:
            places = block(places)
        return self.exit(places)


class Reading(Line):
    def model(self):
        return Reader()

    def tensor_plan(self, model):
        inner = dict.fromkeys(("query", "key", "value", "up"), ColwiseParallel())
        return {f"blocks.*.{name}": style for name, style in (inner | {"out": RowwiseParallel()}).items()} | {
            "blocks.*.down": RowwiseParallel()
        }

    def pipeline_layers(self, model):
        return [model.entry, *model.blocks, model.exit]


class Whole(Line):
    """Says of no way to divide its model."""

    def model(self):
        return Reader()


class Gathering(Reading):
    """Has a layer whose outputs come together again at once, and one whose inputs are not divided before it."""

    def tensor_plan(self, model):
        return {
            "blocks.*.up": ColwiseParallel(output_layouts=Replicate()),
            "exit.linear": RowwiseParallel(input_layouts=Replicate()),
        }


class Normalising(Reading):
    """Has more than linear layers divided."""

    def tensor_plan(self, model):
        return {"blocks.*.norm": SequenceParallel()} | super().tensor_plan(model)


class Misnamed(Reading):
    def tensor_plan(self, model):
        return {"blocks.*.gone": ColwiseParallel()}


class Marking(Entry):
    """Of negative numbers it makes none."""

    def forward(self, points):
        vectors = self.linear(points).unflatten(1, (PLACES, WIDTH))
        return torch.where(points.sum() < 0, vectors.new_full((), float("nan")), vectors)


class Refusing(Exit):
    def forward(self, places):
        if places.isnan().any():
            raise ValueError("negative")
        return super().forward(places)


class Late(Reading):
    """Its last layer says what the first one does of others."""

    def model(self):
        model = Reader()
        model.entry, model.exit = Marking(), Refusing()
        return model


class Undifferentiable(Reading):
    """Its last layer is computed without gradients only."""

    def model(self):
        model = Reader()
        model.exit.register_forward_pre_hook(_refuse_gradients)
        return model


def _refuse_gradients(_layer, inputs):
    if inputs[0].requires_grad:
        raise ValueError("no gradients")
