"""Which device a rank computes on, and what each kind of device has to be told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from muster_worker.train.errors import ConfigurationError

if TYPE_CHECKING:
    from muster_worker.train.environment import Environment

XLA = "xla"


def device_of(environment: Environment) -> torch.device:
    """The device this rank computes on; raises ConfigurationError when the backend needs one that is not there."""
    if environment.backend == XLA:
        return _xla().start(environment)
    available = torch.cuda.is_available()
    if not (environment.backend == "nccl" or (environment.backend is None and available)):
        return torch.device("cpu")
    if not available:
        raise ConfigurationError("spec.backend: found nccl, but this pod has no GPU: ask for one, or use gloo")
    device = torch.device("cuda", environment.local_rank)
    torch.cuda.set_device(device)
    return device


def _xla() -> Any:
    try:
        from muster_worker.train import xla  # noqa: PLC0415 - few images have it, and its threads survive no fork
    except ImportError as error:
        raise ConfigurationError(
            f"spec.backend: found xla, but this image has no torch_xla: {error}; wanted an image that has the one of"
            " its torch"
        ) from error
    return xla


def hardware(device: torch.device) -> str:
    """What it is: cpu, cuda or tpu."""
    name: str = _xla().hardware() if device.type == XLA else device.type
    return name


def seed_device(device: torch.device, number: int) -> None:
    """Of the random numbers that are drawn on the device itself; those of the CPU are drawn elsewhere."""
    if device.type == XLA:
        _xla().seed(number)
    elif device.type != "cpu":
        torch.get_device_module(device).manual_seed(number)


def carry_out(device: torch.device) -> None:
    """Has the device do all that it was told: XLA only notes it, and would do it anew for each number it is asked for.

    Other devices are at it already.
    """
    if device.type == XLA:
        _xla().carry_out()
