"""Mixed precision, chosen by device."""

from __future__ import annotations

import os

import pytest
import torch

from muster_worker.train import precision as module
from muster_worker.train.errors import ConfigurationError
from muster_worker.train.precision import Precision, chosen_dtype
from muster_worker.train.process_group import joined
from muster_worker.train.strategy.layout import Layout
from tests.ports import free_ports
from tests.worker.train.ranks import CONTEXT, LIMIT

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("wanted", "device", "bfloat16_supported", "dtype"),
    [
        ("auto", "cpu", False, torch.float32),
        ("auto", "cuda", True, torch.bfloat16),
        ("auto", "cuda", False, torch.float16),
        ("float32", "cuda", True, torch.float32),
        ("float16", "cuda", True, torch.float16),
        ("bfloat16", "cpu", False, torch.bfloat16),
    ],
)
def test_the_type_follows_the_device(wanted, device, bfloat16_supported, dtype):
    assert chosen_dtype(wanted, device, bfloat16_supported=bfloat16_supported) == dtype


def test_float16_needs_a_gpu():
    with pytest.raises(ConfigurationError, match="found float16, which needs a GPU, wanted auto, float32 or bfloat16"):
        chosen_dtype("float16", "cpu", bfloat16_supported=True)


def step(precision, model, optimizer, factor=1.0):
    with precision.forward():
        output = model(torch.ones(1, 2))
        loss = factor * output.float().sum()
    optimizer.zero_grad()
    precision.backward(loss)
    precision.step(optimizer)
    return output


@pytest.mark.parametrize(
    ("dtype", "computed"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.float16, torch.float16)],
)
def test_the_forward_pass_computes_in_the_type_and_parameters_stay_float32(dtype, computed):
    model = torch.nn.Linear(2, 1)
    before = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    # An eighth: float16's first scale of 2 ** 16 would overflow with a gradient of one.
    output = step(Precision(dtype, "cpu"), model, optimizer, factor=0.125)
    assert output.dtype == computed
    assert model.weight.dtype == model.weight.grad.dtype == torch.float32
    torch.testing.assert_close(model.weight.detach(), before - 0.0625)


def test_a_step_that_overflows_float16_is_left_out_and_the_scale_survives_a_restart():
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    precision = Precision(torch.float16, "cpu")
    before = model.weight.detach().clone()
    step(precision, model, optimizer, factor=float("inf"))
    assert torch.equal(model.weight, before)
    state = precision.state_dict()
    assert state["scale"] == 2.0**15
    resumed = Precision(torch.float16, "cpu")
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state


def overflow_in_turn(rank, port, told):
    """Of two ranks, each with a part of a model, one after the other has an infinite gradient, then none has."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "USE_LIBUV": "0"}
    torch.manual_seed(rank)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with joined(CPU, rank, 2):
        precision = Precision(torch.float16, "cpu", divided=True)
        for factor in (float("inf") if rank == 0 else 0.125, float("inf") if rank == 1 else 0.125, 0.125):
            before = model.weight.detach().clone()
            step(precision, model, optimizer, factor)
            told.put((rank, torch.equal(model.weight, before), precision.state_dict()["scale"]))


def test_where_one_rank_overflows_all_leave_the_step_out():
    told, (port,) = CONTEXT.Queue(), free_ports(1)
    processes = [CONTEXT.Process(target=overflow_in_turn, args=(rank, port, told)) for rank in range(2)]
    for process in processes:
        process.start()
    found = [told.get(timeout=LIMIT) for _ in range(6)]
    for process in processes:
        process.join()
    for rank in range(2):
        steps = [(left_out, scale) for its, left_out, scale in found if its == rank]
        assert steps == [(True, 2.0**15), (True, 2.0**14), (False, 2.0**14)]


def test_a_rank_that_has_no_gradient_goes_along(monkeypatch):
    """As where a part of the model is not used."""
    precision = Precision(torch.float16, "cpu", divided=True)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    (port,) = free_ports(1)
    for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", str(port)), ("USE_LIBUV", "0")):
        monkeypatch.setenv(name, value)
    with joined(CPU, 0, 1):
        precision.unscale(optimizer)
        precision.step(optimizer)
    assert precision.state_dict()["scale"] == 2.0**16


@pytest.mark.parametrize("wanted", ["bfloat16", "float16"])
def test_what_gloo_cannot_add_up_is_refused(monkeypatch, wanted):
    monkeypatch.setattr(module, "chosen_dtype", lambda *_, **__: getattr(torch, wanted))
    Precision.on(CPU, wanted, Layout("pipeline", 0, 1, 1, 2))
    with pytest.raises(ConfigurationError, match=f"precision: found {wanted}, in which gloo adds up nothing"):
        Precision.on(CPU, wanted, Layout("fsdp", 0, 1, 2))


def test_parameter_servers_compute_in_float32_where_a_gpu_has_but_float16(monkeypatch):
    servers = Layout("parameterServer", 0, 1, 1)
    monkeypatch.setattr(module, "hardware", lambda _: "cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    weights = torch.ones(2, 2)
    with Precision.on(CPU, "auto", servers).forward():
        assert (weights @ weights).dtype == torch.float32
    with Precision.on(CPU, "auto", Layout("ddp", 0, 1, 1)).forward():
        assert (weights @ weights).dtype == torch.float16
    with pytest.raises(ConfigurationError, match="found float16, which parameter servers do not go together with"):
        Precision.on(CPU, "float16", servers)
