"""Requests for inference and answers to them, whichever way they come."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from muster_worker.serve.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from muster_worker.serve.model import Model, Signature

SERVER = "muster"
EXTENSIONS = ("binary_tensor_data", "generate")
PLATFORM = "pytorch"


@dataclass(frozen=True, slots=True)
class Wanted:
    """An output that is asked for; `binary`: as bytes behind the JSON."""

    name: str
    binary: bool = False


@dataclass(frozen=True, slots=True)
class InferRequest:
    """`inputs` in the order of the signature. `outputs`: those that are asked for. `parameters`: of all of it."""

    id: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Wanted, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)


def properties_of(model: Model) -> dict[str, str]:
    """What a model's metadata says beside its tensors: that it generates text, and how many tokens it looks back at."""
    if model.language_model is None:
        return {}
    return {"generate": "true", "context": str(model.language_model.context)}


def ordered(signature: Signature, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """The inputs in the order of the signature; raises RequestError naming one that is missing or does not match."""
    missing = [spec.name for spec in signature.inputs if spec.name not in given]
    if missing:
        raise RequestError(f"input {', '.join(missing)}: missing")
    tensors = tuple(given[spec.name] for spec in signature.inputs)
    if len(tensors) > 1 and signature.batched and len({tensor.shape[0] for tensor in tensors}) > 1:
        lengths = ", ".join(
            f"{spec.name} {tensor.shape[0]}" for spec, tensor in zip(signature.inputs, tensors, strict=True)
        )
        raise RequestError(f"inputs: they have unequal numbers of samples ({lengths})")
    return tensors


def input_named(signature: Signature, name: object, given: Mapping[str, Tensor]) -> int:
    """Which input of the signature that is; raises RequestError when there is none, or it was given before."""
    names = [spec.name for spec in signature.inputs]
    if name not in names:
        raise RequestError(f"input {name}: the model has none of that name, it has {', '.join(names)}")
    if name in given:
        raise RequestError(f"input {name}: given twice")
    return names.index(name)


def wanted_outputs(signature: Signature, asked: tuple[Wanted, ...], *, binary: bool) -> tuple[Wanted, ...]:
    """What is asked for, or all; raises RequestError for one that the model does not have, or was asked for before."""
    names = [spec.name for spec in signature.outputs]
    found: set[str] = set()
    for one in asked:
        if one.name not in names:
            raise RequestError(f"output {one.name}: the model has none of that name, it has {', '.join(names)}")
        if one.name in found:
            raise RequestError(f"output {one.name}: asked for twice")
        found.add(one.name)
    return asked or tuple(Wanted(name, binary) for name in names)
