"""The device that a backend asks for, where it is not there."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from muster_worker.train.device import device_of
from muster_worker.train.errors import ConfigurationError


def test_an_image_without_torch_xla_says_so(monkeypatch):
    monkeypatch.delitem(sys.modules, "muster_worker.train.xla", raising=False)
    monkeypatch.setitem(sys.modules, "torch_xla", None)
    with pytest.raises(ConfigurationError, match=r"spec\.backend: found xla, but this image has no torch_xla: "):
        device_of(SimpleNamespace(backend="xla"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_nccl_without_a_gpu_is_refused():
    with pytest.raises(ConfigurationError, match=r"spec\.backend: found nccl, but this pod has no GPU"):
        device_of(SimpleNamespace(backend="nccl"))


def test_gloo_is_for_the_cpu():
    assert device_of(SimpleNamespace(backend="gloo")) == torch.device("cpu")
