"""What is wrong is refused by `kubectl apply`, in a sentence that says what to write instead."""

from __future__ import annotations

from tests.cluster.kube import ROOT

MANIFESTS = sorted((ROOT / "tests" / "unit" / "api" / "malformed").glob("*.yaml"))


def test_there_are_at_least_twenty():
    assert len(MANIFESTS) >= 20
