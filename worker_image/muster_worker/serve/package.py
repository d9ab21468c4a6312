"""Makes a model directory of a TorchScript file, which says nothing itself of the types and shapes that it takes."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import torch

from muster_worker.serve.tensors import ANY, TensorSpec
from muster_worker.train.durable import publish, record_of, temporary_beside, write_json
from muster_worker.train.errors import ConfigurationError, StorageError
from muster_worker.train.export import named_outputs
from muster_worker.train.model_directory import (
    DATATYPES,
    DESCRIPTION,
    FORMAT,
    SCRIPT,
    Published,
    check_replaceable,
    load_model,
    load_script,
    summary,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor, nn

_TRIED = 2, 3
"""Lengths that stand for any: an output dimension that follows them has any length, too."""


def package(script: Path, directory: Path, inputs: Sequence[TensorSpec]) -> Published:
    """Writes a copy of `script` to `directory` with what a server has to know of it, replacing what is there.

    Outputs are found by computing with zeros. Raises StorageError where a file cannot be read or written, and
    ConfigurationError where the model does not take the inputs, its outputs do not follow their samples, or something
    is there that is no model.
    """
    directory = directory.resolve()  # "." has no name
    check_replaceable(directory)
    model = load_script(script)
    outputs = _outputs(model, inputs)
    temporary = temporary_beside(directory, str(os.getpid()))
    try:
        temporary.mkdir(parents=True)
        shutil.copyfile(script, temporary / SCRIPT)
        write_json(
            temporary / DESCRIPTION,
            {
                "format": FORMAT,
                "origin": {"torchscript": script.name},
                "inputs": [_described(spec) for spec in inputs],
                "outputs": [_described(spec) for spec in outputs],
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "metrics": {},
                "program": None,
                "programError": "a TorchScript file",
                "script": SCRIPT,
                "versions": {"torch": torch.__version__},
                "files": {SCRIPT: record_of(temporary / SCRIPT)},
            },
        )
        publish(temporary, directory)
    except OSError as error:
        raise StorageError(f"the model could not be written to {directory}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return summary(load_model(directory))


def parse_input(text: str) -> TensorSpec:
    """NAME:DATATYPE:SHAPE, such as images:FP32:-1,1,8,8; raises ConfigurationError."""
    name, _, rest = text.partition(":")
    datatype, _, shape = rest.partition(":")
    lengths = shape.split(",")
    if not name or datatype not in DATATYPES.values() or not all(_is_length(length) for length in lengths):
        raise ConfigurationError(
            f"--input: found {text}, wanted NAME:DATATYPE:SHAPE such as images:FP32:-1,1,8,8, where -1 is any length"
            f" and the datatype one of {', '.join(sorted(DATATYPES.values()))}"
        )
    return TensorSpec(name, datatype, tuple(map(int, lengths)))


def _is_length(text: str) -> bool:
    return text == str(ANY) or (text.isdigit() and int(text) > 0)


def _outputs(model: nn.Module, inputs: Sequence[TensorSpec]) -> list[TensorSpec]:
    shorter, longer = (_computed(model, inputs, length) for length in _TRIED)
    if not all(isinstance(tensor, torch.Tensor) for tensor in shorter.values()):
        raise ConfigurationError("the model's output: wanted a tensor, or several in a tuple or a dict")
    if all(one.shape[:1] == (ANY,) for one in inputs):
        for name, tensor in shorter.items():
            _check_samples(name, tensor.shape[:1], longer[name].shape[:1])
    return [
        TensorSpec(
            name,
            DATATYPES[tensor.dtype],
            tuple(one if one == two else ANY for one, two in zip(tensor.shape, longer[name].shape, strict=True)),
        )
        for name, tensor in shorter.items()
    ]


def _check_samples(name: str, *lengths: torch.Size) -> None:
    """Raises ConfigurationError where an output has another length for each number of samples, but not theirs."""
    if lengths[0] != lengths[1] and lengths != tuple((length,) for length in _TRIED):
        found, wanted = (" and ".join(str(one) for one in many) for many in ([one[0] for one in lengths], _TRIED))
        raise ConfigurationError(
            f"the model's output {name}: found {found} results for {wanted} samples, wanted one for each, or as many"
            " whatever the samples"
        )


def _computed(model: nn.Module, inputs: Sequence[TensorSpec], length: int) -> dict[str, Tensor]:
    zeros = [TensorSpec(one.name, one.datatype, _with(one.shape, length)).zeros() for one in inputs]
    try:
        with torch.inference_mode():
            return named_outputs(model(*zeros))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        said = ", ".join(f"{one.name}:{one.datatype}:{list(one.shape)}" for one in inputs)
        raise ConfigurationError(f"--input: the model does not take {said}: {reason}") from error


def _with(shape: tuple[int, ...], length: int) -> tuple[int, ...]:
    return tuple(length if one == ANY else one for one in shape)


def _described(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
