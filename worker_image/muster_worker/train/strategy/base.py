"""What every strategy does for the trainer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from muster_worker.train.errors import ConfigurationError
from muster_worker.train.strategy.layout import FIELD

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from muster_worker.train.precision import Precision
    from muster_worker.train.strategy.layout import Layout


@dataclass(frozen=True, slots=True)
class Batch:
    """A rank's share of a batch. `weight`: what its mean loss counts in the step's, times the number of shares."""

    inputs: tuple[Any, ...]
    target: Any
    loss: Callable[[Any, Any], Tensor]
    weight: float


class Strategy:
    """The model among the ranks. Gradients are the mean over the shares of the data, as DDP's are."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        """What is called with this rank's share of a batch to train, and whose state a checkpoint has."""

    def start_batch(self, *, last: bool) -> None:
        """Before a batch. `last`: it is the step's last, after whose backward pass gradients are to be common."""

    def compute(self, batch: Batch, precision: Precision, told: Callable[[float], None]) -> None:
        """The forward and the backward pass of this rank's share of a batch.

        `told` is called with its mean loss as soon as that is known; on ranks that do not speak, with anything.
        """
        with precision.forward():
            loss = batch.loss(self.module(*batch.inputs), batch.target)
        told(loss.item())
        precision.backward(loss * batch.weight)

    def finish_step(self) -> None:
        """After the last backward pass: gradients are common from here on, as are the buffers. Collective."""

    def finish_update(self) -> None:
        """After the optimizer's step."""

    def gradients(self) -> list[Tensor]:
        """Of this rank's parts, where there are some."""
        return [local(one.grad) for one in self.module.parameters() if one.grad is not None]

    def gradient_norm(self) -> float:
        """Of all gradients of the whole model as one vector, the same on all ranks. Collective."""
        return math.sqrt(self._squares())

    def _squares(self) -> float:
        """Of the gradients that this rank has, the parts of others that it has parts of included. Collective."""
        found = [one.grad for one in self.module.parameters() if one.grad is not None]
        total = 0.0
        meshes = [getattr(one, "device_mesh", None) for one in found]
        for mesh in dict.fromkeys(meshes):  # torch takes the norm of what is divided alike, not of all together
            norm = torch.nn.utils.get_total_norm([one for one, its in zip(found, meshes, strict=True) if its == mesh])
            total += float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm) ** 2
        return total

    def evaluated(self) -> nn.Module:
        """What computes the outputs, the same on all ranks of a share, without a backward pass."""
        return self.module

    def whole_weights(self) -> dict[str, Any]:
        """The state dict of the model on the CPU of rank 0; of others, anything. Collective."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights: dict[str, Any] = get_model_state_dict(self.module, options=options)
        return weights


def summed(number: float, group: dist.ProcessGroup | None = None) -> float:
    """Over the ranks of the group. Collective."""
    total = torch.tensor(number, dtype=torch.float64)
    dist.all_reduce(total, group=group)
    return total.item()


def reached(module: nn.Module, group: dist.ProcessGroup) -> list[int]:
    """For each parameter, how many ranks of the group have a gradient of it. Collective."""
    counts = torch.tensor([one.grad is not None for one in module.parameters()], dtype=torch.int32)
    dist.all_reduce(counts, group=group)
    found: list[int] = counts.tolist()
    return found


def check_reached(module: nn.Module, found: Collection[nn.Parameter]) -> None:
    """Raises ConfigurationError where a parameter that is trained is not among them: all ranks are to send the same."""
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and parameter not in found:
            raise ConfigurationError(
                f"{FIELD}.type: found ddp, with which each batch has to reach all parameters that are trained, but one"
                f" has not reached {name}: wanted requires_grad_(False) for what is not to be trained, or type"
                " parameterServer"
            )


def places(model: nn.Module) -> dict[nn.Parameter, list[str]]:
    """Its parameters, each with all of its names: layers may share one."""
    found: dict[nn.Parameter, list[str]] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            found.setdefault(parameter, []).append(name)
    return found


def divide_groups(optimizer: Optimizer) -> None:
    """Has each group of its parameters hold such as are divided alike, with the settings that the recipe gave it.

    An optimizer that takes many at once does not take divided and whole ones together. And of a group of which this
    rank has nothing, torch loads no settings: it is left out.
    """
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        alike: dict[Any, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            alike.setdefault(getattr(parameter, "device_mesh", None), []).append(parameter)
        groups += [{**group, "params": parameters} for parameters in alike.values()]
    if groups:
        optimizer.param_groups[:] = groups


def keep_only(model: nn.Module, mine: set[Any]) -> None:
    """Only these parameters and buffers stay in the model, where a checkpoint finds them by their names."""
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):  # noqa: SLF001 - what `register_parameter(name, None)` sets
            for name, tensor in tensors.items():
                if tensor is not None and tensor not in mine:
                    tensors[name] = None


def mesh_of(layout: Layout, device_type: str) -> Any:
    """The ranks by their ways, by torch's names of them."""
    from torch.distributed.device_mesh import init_device_mesh  # noqa: PLC0415 - takes a second

    ways = ("data", "pipeline", "tensor")
    return init_device_mesh(device_type, tuple(getattr(layout, way) for way in ways), mesh_dim_names=ways)


def local(tensor: Tensor) -> Tensor:
    """What this rank has of a tensor that may be divided: a DTensor, whose import takes a second."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def as_on_rank_0(model: nn.Module) -> None:
    """Gives every rank rank 0's parameters and buffers. Collective."""
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.data, 0)
