"""Publishing a trained model: written, read back, compared, and only then given its name."""

from __future__ import annotations

import copy
import inspect
import itertools
import logging
import os
import platform
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from muster_worker.train.durable import publish, record_of, temporary_beside, write_json
from muster_worker.train.errors import ConfigurationError, StorageError, TrainingError
from muster_worker.train.model_directory import (
    DATATYPES,
    DESCRIPTION,
    EXAMPLE,
    FORMAT,
    PROGRAM,
    WEIGHTS,
    Published,
    load_model,
    summary,
)
from muster_worker.train.program import check_program

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    Inputs = tuple[Tensor, ...]

log = logging.getLogger(__name__)

EXAMPLES = 4
"""Samples that the model directory has at most, with what the model makes of them."""


@dataclass(frozen=True)
class Trained:
    """A model that has been trained, and what is told of it."""

    model: nn.Module
    examples: tuple[Tensor, ...]
    """Its inputs, each of shape (N, …), from real samples."""

    metrics: dict[str, float]
    origin: dict[str, Any]
    """What it was made by: recipe, config, step, epoch; compression, where it was compressed."""

    compression: tuple[dict[str, Any], ...] = ()
    """What each step of it cost and gained."""

    parameters: int | None = None
    """How many the model had before it was quantized; None: as many as it has."""

    generation: dict[str, Any] | None = None
    """Where its recipe says how it generates text: the `context` of that. None: it does not generate."""


def export_model(directory: Path, trained: Trained, token: str) -> Published:
    """Writes the model to `directory`, replacing one that is there.

    Raises StorageError, ConfigurationError where outputs are no tensors or not as many as the samples, or TrainingError
    when what was read back does not compute what the model does.
    """
    model = copy.deepcopy(trained.model).cpu().eval()
    temporary = temporary_beside(directory, token)
    try:
        temporary.mkdir(parents=True)
        kinds = _kinds(model, trained)
        _check_samples(model, kinds)
        _write(temporary, model, trained, kinds)
        _verify(temporary, model, kinds)
        publish(temporary, directory)
    except OSError as error:
        raise StorageError(f"the model could not be written to {directory}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return summary(load_model(directory))


def _write(directory: Path, model: nn.Module, trained: Trained, kinds: Sequence[Inputs]) -> None:
    write_weights(directory / WEIGHTS, model)
    reason = _write_program(directory / PROGRAM, model, kinds)
    (inputs, outputs), *_ = computed = [_computed(model, kind) for kind in kinds]
    _write_example(directory / EXAMPLE, inputs, outputs)
    names = [WEIGHTS, EXAMPLE] if reason else [WEIGHTS, PROGRAM, EXAMPLE]
    for name in names:
        _settle(directory / name)
    description = {
        "format": FORMAT,
        "origin": trained.origin,
        "inputs": signature([one for one, _ in computed]),
        "outputs": signature([one for _, one in computed]),
        "parameters": trained.parameters or count_parameters(model),
        "metrics": trained.metrics,
        "compression": list(trained.compression),
        "generation": trained.generation,
        "program": None if reason else PROGRAM,
        "programError": reason,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "files": {name: record_of(directory / name) for name in names},
    }
    write_json(directory / DESCRIPTION, description)


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def write_weights(path: Path, model: nn.Module) -> None:
    # Copies: parameters that share memory are refused by safetensors.
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}, path)


def _write_example(path: Path, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
    named = {f"input.{name}": tensor for name, tensor in inputs.items()}
    named |= {f"output.{name}": tensor for name, tensor in outputs.items()}
    # A slice shares its memory with the whole, which safetensors would refuse or write.
    save_file({name: tensor[:EXAMPLES].detach().clone().contiguous() for name, tensor in named.items()}, path)


def _kinds(model: nn.Module, trained: Trained) -> list[Inputs]:
    """Its examples, and the same as shorter texts where a text's length is the request's to choose."""
    examples = trained.examples
    if trained.generation is None or any(example.ndim != 2 or example.shape[1] < 3 for example in examples):
        return [examples]
    shorter = tuple(example[:, :-1] for example in examples)
    try:
        with torch.no_grad():
            model(*shorter)
    except Exception as error:  # noqa: BLE001 - whatever a model does that has to have all tokens
        length = examples[0].shape[1]
        log.warning("the model takes texts of %d tokens only: %s: %s", length, type(error).__name__, error)
        return [examples]
    return [examples, shorter]


def _computed(model: nn.Module, inputs: Inputs) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The inputs and what comes of them, by their names."""
    with torch.no_grad():
        return dict(zip(_input_names(model, inputs), inputs, strict=True)), named_outputs(model(*inputs))


def _write_program(path: Path, model: nn.Module, kinds: Sequence[Inputs]) -> str | None:
    """Gives the reason where the model cannot be exported: then its weights and its recipe are what there is."""
    # Of one sample, the exporter would conclude that the batch is always one.
    several = tuple(of_length(example, 2) for example in kinds[0])
    any_length: dict[int, Any] = {0: torch.export.Dim("batch")}
    if len(kinds) > 1:
        any_length[1] = torch.export.Dim("length", max=several[0].shape[1])
    try:
        program = torch.export.export(model, several, dynamic_shapes=_shapes(model, several, any_length))
        for node in program.graph.nodes:
            # Where in the source it came from: half of a small program's file, and paths of the machine that made it.
            node.meta.pop("stack_trace", None)
            node.meta.pop("nn_module_stack", None)
        torch.export.save(program, path)
        check_program(path)  # names that a model may have and a program may not
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a model does that the exporter does not know
        path.unlink(missing_ok=True)
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        log.warning("the model cannot be exported as a program (%s): model.json says so, the weights are there", reason)
        return reason
    return None


def _shapes(
    model: nn.Module, examples: tuple[Tensor, ...], any_length: dict[int, Any]
) -> dict[str, Any] | tuple[Any, ...]:
    parameters = inspect.signature(model.forward).parameters.values()
    each = [any_length for _ in examples]
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return (tuple(each),)
    return tuple(each)


def _verify(directory: Path, model: nn.Module, kinds: Sequence[Inputs]) -> None:
    loaded = load_model(directory)
    weights = loaded.weights()
    for name, tensor in model.state_dict().items():
        if not _equal(weights[name], tensor):
            raise TrainingError(f"the model was not published: {name} differs in {WEIGHTS}")
    if loaded.description["program"] is None:
        return
    program = loaded.program()
    for inputs in _of_lengths(kinds):
        with torch.no_grad():
            wanted, found = named_outputs(model(*inputs)), named_outputs(program(*inputs))
        for name, tensor in wanted.items():
            if not torch.allclose(found[name], tensor, rtol=1e-4, atol=1e-5, equal_nan=True):
                raise TrainingError(f"the model was not published: its program computes another {name}")


def _equal(found: Tensor, wanted: Tensor) -> bool:
    """Also where both are no number, as buffers that nothing has filled may be."""
    if torch.equal(found, wanted):
        return True
    return wanted.is_floating_point() and torch.allclose(found, wanted, rtol=0, atol=0, equal_nan=True)


def _check_samples(model: nn.Module, kinds: Sequence[Inputs]) -> None:
    """Servers compute samples of several requests together, and have to know which results are whose."""
    for inputs in _of_lengths(kinds):
        samples = len(inputs[0])
        with torch.no_grad():
            outputs = named_outputs(model(*inputs))
        check_outputs(outputs, samples)


def check_outputs(outputs: dict[str, Any], samples: int) -> None:
    """Raises ConfigurationError where a model that gives these of so many samples cannot be published."""
    for name, tensor in outputs.items():
        if not isinstance(tensor, torch.Tensor) or tensor.dtype not in DATATYPES:
            found = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise ConfigurationError(
                f"the model's {name} is {found}, wanted a tensor of numbers: in evaluation, forward is to return"
                " nothing but tensors, one, or several in a tuple or a dict"
            )
        if tensor.shape[:1] != (samples,):
            raise ConfigurationError(
                f"of {samples} samples, the model's {name} has the shape {list(tensor.shape)},"
                f" wanted [{samples}, …], a result for each sample"
            )


def _of_lengths(kinds: Sequence[Inputs]) -> Iterator[Inputs]:
    """Some samples of each kind."""
    for examples, length in itertools.product(kinds, (1, 3)):
        yield tuple(of_length(example, length) for example in examples)


def of_length(example: Tensor, length: int) -> Tensor:
    """`length` samples, repeated as needed."""
    return example[torch.arange(length) % len(example)]


def _input_names(model: nn.Module, examples: tuple[Tensor, ...]) -> list[str]:
    parameters = inspect.signature(model.forward).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(names) < len(examples):
        return [f"input_{number}" for number in range(len(examples))]
    return names[: len(examples)]


def named_outputs(output: Any) -> dict[str, Tensor]:
    """A model's output by names: a dict's own, `output` for a tensor, `output_0`, … for a tuple."""
    if isinstance(output, dict):
        return output
    if isinstance(output, (tuple, list)):
        return {f"output_{number}": tensor for number, tensor in enumerate(output)}
    return {"output": output}


def signature(kinds: Sequence[dict[str, Tensor]]) -> list[dict[str, Any]]:
    """Names, Open Inference Protocol datatypes and shapes; -1 is the batch, and a length that not all kinds have."""
    return [
        {"name": name, "datatype": DATATYPES[tensor.dtype], "shape": [-1, *_lengths([kind[name] for kind in kinds])]}
        for name, tensor in kinds[0].items()
    ]


def _lengths(tensors: Sequence[Tensor]) -> list[int]:
    """Of one sample; -1 where they differ."""
    shapes = [tensor.shape[1:] for tensor in tensors]
    return [found[0] if len(set(found)) == 1 else -1 for found in zip(*shapes, strict=True)]


def _settle(path: Path) -> None:
    """Through to the disk, and readable for whoever serves it: safetensors writes for its owner alone."""
    path.chmod(0o644)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
