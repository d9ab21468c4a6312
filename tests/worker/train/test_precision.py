"""Mixed precision, chosen by device."""

from __future__ import annotations

import pytest
import torch

from muster_worker.train.errors import ConfigurationError
from muster_worker.train.precision import Precision, chosen_dtype


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
