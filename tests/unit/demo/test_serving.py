"""The demo's second half where something of this machine is in its way."""

from __future__ import annotations

import pytest

from demo import serving


def test_a_port_that_somebody_else_has_is_told_of(monkeypatch, tmp_path):
    """Else what answers there would be taken for the model."""
    kubectl = tmp_path / "kubectl"
    kubectl.write_text("#!/bin/sh\necho 'unable to listen on port 18080: address already in use' >&2\nexit 1\n")
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(serving, "_counts", lambda *_: {})
    monkeypatch.setattr(serving, "_said", lambda _: [{"images": []}])
    with pytest.raises(serving.GaveUp, match=r"port 18080 .*: unable to listen on port 18080: address already in use"):
        serving._ask_by_curl("demo")
