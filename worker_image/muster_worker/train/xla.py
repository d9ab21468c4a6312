"""TPUs, by torch_xla: the one module that imports it. It is imported in the ranks that compute by it, and no others.

XLA notes what is computed, and carries it out as one program when it is told to. A program that was seen before, with
the same shapes, is not compiled again; Python's numbers are its inputs, except 0 and 1.

Between devices only sums go. PJRT numbers devices in an order of its own, which need not be that of the ranks: whatever
is of one rank and not another, such as a checkpoint that is handed on, goes from CPU to CPU by gloo.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch_xla
import torch_xla.core.xla_model as xm
import torch_xla.runtime as xr
from torch_xla._internal import pjrt
from torch_xla.distributed import xla_backend

from muster_worker.train.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from muster_worker.train.environment import Environment

# The one of torch_xla, which its import puts there, knows fewer arguments; and its groups are not used here.
dist.new_group = xla_backend._orig_new_group_fn  # noqa: SLF001


def start(environment: Environment) -> torch.device:
    """Gives the device of this rank; with several ranks it returns when all of them are there.

    Raises ConfigurationError where ranks would not exchange gradients, and would learn each by itself.
    """
    if environment.strategy.type != "ddp":
        raise ConfigurationError(
            f"spec.strategy.type: found {environment.strategy.type} with the backend xla, wanted ddp, or another"
            " spec.backend"
        )
    # What xmp.spawn does for its processes, and torch_xla's init method xla:// for those of torchrun: on TPUs, one chip
    # for each process, by what the node's device plugin and the operator say of the slice.
    if environment.world_size > 1:
        pjrt.initialize_multiprocess(environment.local_rank, environment.local_world_size)
    else:
        pjrt.initialize_singleprocess()
    if xr.world_size() != environment.world_size:
        raise ConfigurationError(
            f"spec.backend: found xla with {environment.world_size} processes, of which PJRT joins {xr.world_size()} on"
            f" {xr.device_type()}, wanted one process for each chip of google.com/tpu, or one process altogether"
        )
    return torch_xla.device()


def hardware() -> str:
    """What the devices are: cpu or tpu."""
    return str(xr.device_type()).lower()


def seed(number: int) -> None:
    torch_xla.manual_seed(number)


def carry_out() -> None:
    """Has the device do all that was noted. It returns before that is done."""
    torch_xla.sync()


def add_up(tensors: list[Tensor], scale: float = 1.0) -> None:
    """In place: the sum over all ranks, times `scale`. Collective.

    The programs that it is in must be the same on all ranks, with the same shapes.
    """
    xm.all_reduce(xm.REDUCE_SUM, tensors, scale=scale)


def moved(model: nn.Module, device: torch.device) -> nn.Module:
    """The model, itself, on the device. Parameters that layers share stay one: `to` alone makes each its own there."""
    owners = [(module, name) for module in model.modules() for name in module._parameters]  # noqa: SLF001
    shared: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module, name in owners:
        if (parameter := getattr(module, name)) is not None:
            shared.setdefault(parameter, []).append((module, name))
    model.to(device)
    for (first, its), *others in shared.values():
        for module, name in others:
            setattr(module, name, getattr(first, its))
    return model
