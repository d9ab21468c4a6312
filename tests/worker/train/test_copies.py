"""A copy is what was there, whatever becomes of it; its memory is that of the copy before."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Shard, init_device_mesh

from muster_worker.train.copies import Copies


def state(number, **more):
    return {"model": {"weight": torch.full((8, 4), float(number))}, "optimizer": [{"lr": number / 10}, more]}


def test_each_copy_is_what_was_there():
    copies = Copies()
    for number in (1, 2, 3):
        tensors = state(number)
        copy = copies.of(tensors)
        tensors["model"]["weight"].zero_()
        assert copy["model"]["weight"].tolist() == [[number] * 4] * 8
        assert copy["optimizer"] == [{"lr": number / 10}, {}]


def test_the_next_one_has_the_memory_of_the_one_before():
    copies = Copies()
    places = {copies.of(state(number))["model"]["weight"].data_ptr() for number in (1, 2, 3)}
    assert len(places) == 1


def test_what_has_changed_its_form_is_copied_anew():
    copies = Copies()
    copies.of(state(1))
    grown = copies.of(state(2, momentum=torch.full((3,), 7.0)))
    assert grown["optimizer"][1]["momentum"].tolist() == [7.0] * 3
    wider = copies.of(state(3, momentum=torch.full((5,), 8.0)))
    assert wider["optimizer"][1]["momentum"].tolist() == [8.0] * 5
    whole = copies.of(state(4, momentum=torch.full((5,), 9, dtype=torch.int64)))
    assert whole["optimizer"][1]["momentum"].dtype == torch.int64


def test_parts_of_divided_parameters_are_copied(lone_rank):
    mesh = init_device_mesh("cpu", (1,))
    copies = Copies()
    for number in (1.0, 2.0):
        parameter = nn.Parameter(DTensor.from_local(torch.full((8, 4), number), mesh, [Shard(0)]))
        copy = copies.of({"weight": parameter})["weight"]
        assert isinstance(copy, DTensor)
        assert copy.placements == parameter.placements
        assert copy.to_local().tolist() == [[number] * 4] * 8
        assert copy.grad_fn is None
