"""A trained model as a directory: what is in it, and how it is read without running Python from it.

model.json          what it is: signature, metrics, origin, checksums
model.safetensors   the weights
program.pt2         the torch.export program with a dynamic batch; absent where the model cannot be exported
example.safetensors real samples (input.NAME) and what the model makes of them (output.NAME), for whoever serves it
model.pt            instead of these three, in a directory made by `muster-worker package`: a TorchScript file
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from muster_worker.train.durable import fault_of, read_json, record_of
from muster_worker.train.errors import ConfigurationError, StorageError
from muster_worker.train.program import load_program

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

DESCRIPTION = "model.json"
WEIGHTS = "model.safetensors"
PROGRAM = "program.pt2"
EXAMPLE = "example.safetensors"
SCRIPT = "model.pt"
FORMAT = 1

DATATYPES = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8",
    torch.uint16: "UINT16",
    torch.uint32: "UINT32",
    torch.uint64: "UINT64",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.float16: "FP16",
    torch.bfloat16: "BF16",
    torch.float32: "FP32",
    torch.float64: "FP64",
}
"""Names of the Open Inference Protocol."""


@dataclass(frozen=True)
class Published:
    """A model directory that is whole."""

    bytes: int
    sha256: str
    """Of model.json, which holds the checksums of all else."""


@dataclass(frozen=True)
class LoadedModel:
    """An intact model directory."""

    directory: Path
    description: dict[str, Any]

    @property
    def quantized(self) -> bool:
        """Whether its weights are no floating point numbers."""
        return any("quantize" in step for step in self.description["origin"].get("compression", []))

    def weights(self) -> dict[str, torch.Tensor]:
        """The state dict, on the CPU."""
        tensors: dict[str, torch.Tensor] = load_file(self.directory / WEIGHTS)
        return tensors

    def program(self) -> nn.Module:
        """The model as it was exported, or TorchScript; ready to be called.

        Raises StorageError where it is neither, or would run Python.
        """
        if self.description.get("script") is not None:
            return load_script(self.directory / SCRIPT)
        if self.description["program"] is None:
            raise StorageError(f"{self.directory} has no program: {self.description['programError']}")
        return load_program(self.directory / PROGRAM)


def example(directory: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] | None:
    """Inputs and outputs by name, of some samples; None where nobody wrote an example. Does not verify anything."""
    if EXAMPLE not in read_json(directory / DESCRIPTION)["files"]:
        return None
    tensors = load_file(directory / EXAMPLE)
    return _below("input.", tensors), _below("output.", tensors)


def _below(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def check_replaceable(directory: Path) -> None:
    """Raises ConfigurationError where something is there that is no model: whoever writes one there replaces it all."""
    try:
        others = sorted({path.name for path in directory.iterdir()} - {DESCRIPTION, WEIGHTS, PROGRAM, EXAMPLE, SCRIPT})
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigurationError(f"{directory}: found {error.strerror}, wanted a directory for the model") from error
    if others:
        raise ConfigurationError(
            f"{directory}: found {others[0]} there, which is no model's and would be lost, wanted a directory of the"
            " model's own: a new one, an empty one, or that of an earlier model"
        )


def load_script(path: Path) -> nn.Module:
    """The TorchScript file, whose code torch's own interpreter runs; raises StorageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch asks for torch.export instead; files are there
            module: nn.Module = torch.jit.load(path, map_location="cpu")
    except (RuntimeError, ValueError, OSError) as error:
        raise StorageError(f"{path} is no TorchScript file: {str(error).strip().splitlines()[0]}") from error
    return module.eval()


def load_model(directory: Path) -> LoadedModel:
    """Verifies every file; raises StorageError naming the one that is missing, changed or of another format."""
    try:
        description = read_json(directory / DESCRIPTION)
    except StorageError as error:
        raise StorageError(f"{directory} is no model: {error}") from error
    if description.get("format") != FORMAT:
        raise StorageError(f"{directory}: its format is {description.get('format')}, wanted {FORMAT}")
    for name, wanted in description["files"].items():
        fault = fault_of(directory, name, wanted)
        if fault:
            raise StorageError(f"{directory} is broken: {fault}")
    return LoadedModel(directory, description)


def published_model(directory: Path, origin: Mapping[str, Any]) -> Published | None:
    """The intact model in `directory` if it came from `origin`, else None."""
    try:
        model = load_model(directory)
    except StorageError:
        return None
    return summary(model) if model.description["origin"] == origin else None


def summary(model: LoadedModel) -> Published:
    description = record_of(model.directory / DESCRIPTION)
    size = sum(record["bytes"] for record in model.description["files"].values())
    return Published(size + description["bytes"], description["sha256"])
